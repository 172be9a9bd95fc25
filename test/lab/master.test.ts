import {
  chmodSync,
  closeSync,
  existsSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openLab } from '../../src/lab/lab.ts';
import { contentDigest } from '../../src/lab/masters/content-digest.ts';
import { verifyMaster } from '../../src/lab/verify.ts';
import { openImageFile } from '../../src/node.ts';
import { assertNoDependents, knownDependents } from '../../src/platform/dependents.ts';
import { isImmutable } from '../../src/platform/file-facts.ts';
import { have, isRoot, mustRun, run } from '../support/programs.ts';
import { type LabBench, labBench } from './support.ts';

const qemu = have('qemu-io');

/** Changes four bytes of the master behind everybody's back: the superuser is stopped by no mode. */
async function tamper(bench: LabBench, at = '2M'): Promise<void> {
  const master = bench.path('masters/m.raw');
  await mustRun('chmod', ['u+w', master]);
  await mustRun('qemu-io', ['-f', 'raw', '-c', `write -P 9 ${at} 512`, master]);
}

async function restore(bench: LabBench, at = '2M'): Promise<void> {
  await mustRun('qemu-io', ['-f', 'raw', '-c', `write -P 0x5a ${at} 512`, bench.path('masters/m.raw')]);
}

describe.skipIf(!qemu)('a master that changed', () => {
  it('is seen at once, and its clones do not start; a full comparison settles it', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { runner: 'qemu', seats: 12 });
    await bench.must('up');
    await tamper(bench);
    const status = await bench.run('status');
    expect(status.code).toBe(1);
    expect(status.out).toMatch(/master masters\/m\.raw: touched: .*was written to at/);
    for (const args of [
      ['start', 'student-03,student-05..07'],
      ['reset', 'student-03,student-05..07'],
    ]) {
      const { code, err } = await bench.run(...args);
      expect(code).toBe(1);
      expect(err).toMatch(/The master '.*m\.raw' changed since its clones were made: /);
      expect(err).toContain('Affected: student-03, student-05..07.');
      expect(err).toContain("'cowherd status --verify'");
    }
    const verified = await bench.run('status', '--verify', '--brief');
    expect(verified.code).toBe(1);
    expect(verified.out).toContain('changed: ');
    const up = await bench.run('up');
    expect(up.code).toBe(1);
    expect(up.err).toContain('Affected: student-01..12');

    await restore(bench);
    expect((await bench.run('status')).code).toBe(1);
    expect(await bench.must('status', '--verify')).toContain('as it was (its whole content compared)');
    expect(await bench.must('status')).toContain('m.raw: as it was\n');
  });

  it('is taken as it is now where that is said, seat by seat', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { runner: 'qemu', seats: 3 });
    await bench.must('up');
    await tamper(bench);
    const reset = ['reset', 'student-01', '--accept-master'] as const;
    const before = bench.snapshot(bench.path('class'));
    expect((await bench.run(...reset, '--dry-run')).err).toContain(
      '2 seats would stay on what the master held before, to be reset before they start: student-02, student-03',
    );
    expect((await bench.run('reset', 'all', '--accept-master', '--dry-run')).err).toBe('');
    expect(bench.snapshot(bench.path('class'))).toEqual(before);
    const { stranded } = await bench.json<{ stranded: string[] }>(...reset);
    expect(stranded).toEqual(['student-02', 'student-03']);
    expect((await bench.run(...reset)).err).toContain('2 seats stay on what the master held before');
    expect((await bench.run('reset', 'student-01', '--dry-run')).err).toBe('');
    const { seats } = await bench.json<{ seats: { name: string; disk: string }[] }>('status');
    expect(seats.map((seat) => seat.disk)).toEqual(['ok', 'stale', 'stale']);
    expect((await bench.run('start', 'student-02')).err).toContain(
      'These seats stand on an older content of the master: student-02',
    );
    expect(await bench.must('up')).toMatch(/2 on an older master +student-02, student-03/);
    await bench.must('reset', 'student-02..03');
    expect(await bench.must('up')).toContain('nothing to do');
  });

  it('is missed when it is gone, and when its backing file changed', async () => {
    await using bench = await labBench();
    const master = bench.path('masters/top.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'm.raw', '-F', 'raw', master]);
    bench.write('lab.yaml', { master: 'masters/top.qcow2', runner: 'qemu' });
    await bench.must('up');
    expect(statSync(bench.path('masters/m.raw')).mode & 0o222).toBe(0);
    await expect(assertNoDependents(bench.path('masters/m.raw'))).rejects.toMatchObject({ code: 'in-use' });
    await tamper(bench);
    expect((await bench.run('start', 'student-01')).err).toMatch(/m\.raw: it was written to/);
    await restore(bench);
    await bench.must('status', '--verify');
    await mustRun('mv', [master, `${master}.away`]);
    expect((await bench.run('status')).out).toContain('top.qcow2: missing: ');
    expect((await bench.run('start', 'student-01')).err).toContain('it is gone');
  });

  it('is told of by plan as up refuses it, and not where only a date changed', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    await bench.must('up');
    await tamper(bench);
    const disks = bench.snapshot(bench.path('class'));
    for (const args of [['plan'], ['up', '--dry-run']]) {
      const { code, out } = await bench.run(...args);
      expect(code).toBe(1);
      expect(out).toMatch(
        /the master changed since its clones were made, .*: masters\/m\.raw\n +Affected: st/,
      );
    }
    expect((await bench.json<{ problems: unknown[] }>('plan')).problems).toHaveLength(1);
    expect(bench.snapshot(bench.path('class'))).toEqual(disks);
    const up = await bench.run('up');
    expect([up.code, up.err]).toEqual([1, expect.stringContaining('changed since its clones were made')]);
    await restore(bench);
    expect(await bench.must('plan')).not.toContain('changed');
  });

  it('fools nobody with an old date', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { runner: 'qemu' });
    const master = bench.path('masters/m.raw');
    await bench.must('up');
    const { atime, mtime } = statSync(master);
    await tamper(bench, '4k');
    utimesSync(master, atime, mtime);
    expect((await bench.run('status')).code).toBe(1);
    expect((await bench.run('start')).err).toMatch(/changed since its clones were made/);
  });

  it.each([16, 64])('fools nobody with its own date, to the nanosecond (%i MiB)', async (size) => {
    await using bench = await labBench();
    const master = bench.path('masters/m.raw');
    await mustRun('truncate', ['-s', `${size}M`, master]);
    bench.write('lab.yaml', { runner: 'qemu' });
    bench.write('other.yaml', { lab: 'other', runner: 'files' });
    await bench.must('up');
    const disk = () => statSync(bench.path('class/student-01.qcow2')).ino;
    const before = disk();
    await mustRun('touch', ['-r', master, bench.path('date')]);
    chmodSync(master, 0o644);
    const fd = openSync(master, 'r+');
    writeSync(fd, new Uint8Array(1024 * 1024).fill(1), 0, 1024 * 1024, 1024 * 1024);
    closeSync(fd);
    await mustRun('touch', ['-r', bench.path('date'), master]);
    const status = await bench.run('status');
    expect([status.code, status.out]).toEqual([1, expect.stringContaining('though its date did not')]);
    for (const command of [['start'], ['reset', 'all'], ['up']]) {
      const { code, err } = await bench.run(...command);
      expect([command, code, err]).toEqual([
        command,
        1,
        expect.stringContaining('changed since its clones were made'),
      ]);
    }
    expect(disk()).toBe(before);
    // What was computed for it before is not that of another lab's seats.
    await bench.must('up', 'other.yaml');
    const content = async (file: string) =>
      (await bench.json<{ master: { content: string } }>('status', file)).master.content;
    expect(await content('other.yaml')).not.toBe(await content('lab.yaml'));
    await bench.must('reset', 'all', '--accept-master');
    await bench.must('status');
  });

  it('takes a mode, an owner and a link for no change', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    const master = bench.path('masters/m.raw');
    await bench.must('up');
    const state = () => JSON.parse(readFileSync(bench.path('class/.cowherd/lab-class.json'), 'utf8'));
    expect(state().master.files[0].ctime).toBe(String(statSync(master, { bigint: true }).ctimeNs));
    chmodSync(master, 0o400);
    linkSync(master, bench.path('masters/link'));
    await bench.must('status');
    expect(await bench.must('up')).not.toContain('disk made');
    await bench.must('reset', 'all');
    expect(await bench.must('up')).toContain('nothing to do');
  });

  it('looks into it once after such a change, not each time; who promises to change nothing writes nothing', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    const master = bench.path('masters/m.raw');
    await bench.must('up');
    const known = () =>
      JSON.parse(readFileSync(bench.path('class/.cowherd/lab-class.json'), 'utf8')).master.files[0].ctime;
    const now = () => String(statSync(master, { bigint: true }).ctimeNs);
    for (const verb of ['status', 'up']) {
      chmodSync(master, verb === 'up' ? 0o400 : 0o440);
      const before = bench.snapshot();
      await bench.must('plan');
      await bench.must('reset', 'all', '--dry-run');
      expect(bench.snapshot()).toEqual(before);
      expect(known()).not.toBe(now());
      await bench.must(verb);
      expect(known()).toBe(now());
    }
  });

  it('is remembered with its new dates, and what another command has written meanwhile stays', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const lab = openLab('lab.yaml', bench.dir.path);
    bench.write('lab.yaml', { seats: 3 });
    await bench.must('up');
    utimesSync(bench.path('masters/m.raw'), 1, 1);
    expect(await verifyMaster(lab, { digest: {}, remember: true })).toMatchObject({ state: 'as-it-was' });
    const state = JSON.parse(readFileSync(bench.path('class/.cowherd/lab-class.json'), 'utf8'));
    expect(state.seats.length).toBe(3);
    expect(state.master.files[0].mtime).toBe('1000000000');
  });
});

describe('the guard of a master', () => {
  it('refuses our own tools, and tells who would suffer', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    await bench.must('up');
    const master = bench.path('masters/m.raw');
    expect(await knownDependents(master)).toHaveLength(5);
    await expect(openImageFile(master, { format: 'raw', writable: true })).rejects.toMatchObject({
      code: 'in-use',
      message: expect.stringMatching(
        /student-01\.qcow2, .*student-02\.qcow2, .* and 2 more.*--corrupt-dependents/,
      ),
    });
    await bench.must('down');
    await using image = await openImageFile(master, { format: 'raw', writable: true });
    expect(image.writable).toBe(true);
  });

  it('is held by two labs, and given back by the last', async () => {
    await using bench = await labBench();
    const master = bench.path('masters/m.raw');
    const writable = () => (statSync(master).mode & 0o200) !== 0;
    bench.write('one.yaml', { lab: 'one' });
    bench.write('two.yaml', { lab: 'two' });
    await bench.must('up', 'one.yaml');
    await bench.must('up', 'two.yaml');
    await bench.must('down', 'one.yaml');
    expect(writable()).toBe(false);
    expect(await knownDependents(master)).toHaveLength(5);
    await bench.must('down', 'two.yaml');
    expect(writable()).toBe(true);
    expect(readdirSync(bench.path('masters'))).toEqual(['m.raw']);
  });

  it('takes no MAC address twice in a pool of two labs', async () => {
    await using bench = await labBench();
    bench.write('one.yaml', { lab: 'one', pool: 'pool', seats: { count: 3, name: 'a{n}' } });
    bench.write('two.yaml', { lab: 'two', pool: 'pool', seats: { count: 3, name: 'b{n}' } });
    await bench.must('up', 'one.yaml');
    await bench.must('up', 'two.yaml');
    const macs = async (file: string) =>
      (await bench.json<{ seats: { mac: string }[] }>('status', file)).seats.map((seat) => seat.mac);
    expect(new Set([...(await macs('one.yaml')), ...(await macs('two.yaml'))]).size).toBe(6);
    await bench.must('down', 'one.yaml');
    expect(await bench.must('up', 'two.yaml')).toContain('nothing to do');
    await bench.must('down', 'two.yaml');
    expect(existsSync(bench.path('pool'))).toBe(false);
  });

  it.skipIf(!isRoot || !have('lsattr'))('is immutable where that is asked for', async ({ skip }) => {
    await using bench = await labBench();
    const master = bench.path('masters/m.raw');
    if ((await run('chattr', ['+i', master])).code !== 0)
      skip('this file system or container has no immutable flag');
    await mustRun('chattr', ['-i', master]);
    if (isImmutable(master) === undefined) skip('koffi is not there to set it');
    bench.write('lab.yaml', { guard: 'immutable' });
    await bench.must('up');
    expect(await mustRun('lsattr', [master])).toMatch(/^-*i/);
    expect((await run('sh', ['-c', `echo x >> ${master}`])).code).not.toBe(0);
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('reset', 'all');
    await bench.must('down');
    expect(await mustRun('lsattr', [master])).not.toMatch(/^-*i/);
    expect(statSync(master).mode & 0o200).not.toBe(0);
  });

  it('follows a symbolic link to what it names today', async () => {
    await using bench = await labBench();
    symlinkSync('m.raw', bench.path('masters/current'));
    bench.write('lab.yaml', { master: 'masters/current' });
    await bench.must('up');
    expect(statSync(bench.path('masters/m.raw')).mode & 0o222).toBe(0);
    expect(await knownDependents(bench.path('masters/m.raw'))).toHaveLength(5);
  });
});

describe('the content digest', () => {
  it.skipIf(!qemu)('is the same for the same content, whatever holds it', async () => {
    await using bench = await labBench();
    const at = (name: string) => bench.path('masters', name);
    const raw = at('m.raw');
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 1 10M 100k', '-c', 'write -P 2 63M 1M', raw]);
    const convert = (...args: string[]) => mustRun('qemu-img', ['convert', '-f', 'raw', raw, ...args]);
    await convert('-O', 'qcow2', at('plain.qcow2'));
    await convert('-O', 'qcow2', '-c', at('packed.qcow2'));
    await convert('-O', 'raw', '-S', '0', at('full.raw'));
    await convert('-O', 'qcow2', '-o', 'cluster_size=2M', at('large.qcow2'));
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'm.raw', '-F', 'raw', at('chain.qcow2')]);
    const digest = async (name: string) => {
      await using image = await openImageFile(at(name));
      return await contentDigest(image);
    };
    const known = await digest('m.raw');
    expect(known).toMatch(/^cowherd1:[0-9a-f]{64}$/);
    for (const name of ['plain.qcow2', 'packed.qcow2', 'full.raw', 'large.qcow2', 'chain.qcow2']) {
      expect(await digest(name), name).toBe(known);
    }
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 3 63M 1', at('chain.qcow2')]);
    expect(await digest('chain.qcow2')).not.toBe(known);
    await mustRun('qemu-img', ['resize', '-q', '-f', 'raw', at('full.raw'), '+512']);
    expect(await digest('full.raw')).not.toBe(known);
  });

  it.skipIf(!have('python3'))('is what its description says', async () => {
    await using bench = await labBench();
    const raw = bench.path('masters/m.raw');
    await mustRun('truncate', ['-s', String(64 * 1024 * 1024 + 512), raw]);
    await mustRun('sh', [
      '-c',
      `printf tail | dd of=${raw} bs=1 seek=${64 * 1024 * 1024} conv=notrunc status=none`,
    ]);
    const program = `
import hashlib, os, struct, sys
size = os.path.getsize(sys.argv[1])
root = hashlib.sha256(b'cowherd content 1\\n' + struct.pack('>Q', size))
with open(sys.argv[1], 'rb') as file:
    number = 0
    while leaf := file.read(1048576):
        if any(leaf): root.update(struct.pack('>Q', number) + hashlib.sha256(leaf).digest())
        number += 1
print('cowherd1:' + root.hexdigest())`;
    const known = (await mustRun('python3', ['-c', program, raw])).trim();
    await using image = await openImageFile(raw, { format: 'raw' });
    expect(await contentDigest(image)).toBe(known);
  });
});
