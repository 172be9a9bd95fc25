import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { cowherd } from '../../src/lab/cowherd.ts';
import { folderLock } from '../../src/lab/masters/library.ts';
import { lockPool } from '../../src/lab/pool/pool-lock.ts';
import { byteLocks } from '../../src/platform/byte-locks.ts';
import { testContext } from '../support/cli-context.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, run } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const qemu = have('qemu-io') && have('qemu-img');

interface Collected {
  readonly garbage: readonly { readonly kind: string; readonly path: string }[];
  readonly kept: readonly { readonly path: string; readonly why: string }[];
}

/** m@1 … m@n, each from what student-01 wrote last; the lab is on m.raw. */
async function labWithVersions(n: number): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 2 });
  await bench.must('up');
  for (let i = 1; i <= n; i++) {
    await mustRun('qemu-io', [
      '-f',
      'qcow2',
      '-c',
      `write -P ${i} 0 1M`,
      bench.path('class/student-01.qcow2'),
    ]);
    await bench.must('promote', 'student-01');
  }
  return bench;
}

const version = (bench: LabBench, n: number) => bench.path(`masters/m@${n}.qcow2`);
const paths = (found: Collected) => found.garbage.map((one) => one.path);

describe.skipIf(!qemu)('gc', () => {
  it('removes versions that nothing stands on, and no other', async () => {
    await using bench = await labWithVersions(5);
    await bench.must('roll', 'm@2');
    await bench.must('reset', 'student-02');
    await bench.must('roll', 'm@3');
    // Made by others, elsewhere, and found since the place is named.
    await mustRun('mkdir', [bench.path('vms')]);
    await mustRun('qemu-img', [
      ...['create', '-q', '-f', 'qcow2', '-b', version(bench, 4), '-F', 'qcow2'],
      bench.path('vms/strange.qcow2'),
    ]);
    const before = bench.snapshot(bench.path('masters'));
    const found = await bench.json<Collected>('gc', 'masters', 'vms');
    expect(paths(found)).toEqual([version(bench, 1)]);
    expect(found.kept.map((one) => one.path)).toEqual([2, 3, 4].map((n) => version(bench, n)));
    expect(bench.snapshot(bench.path('masters'))).toEqual(before);
    expect(await bench.must('gc', 'masters', 'vms', '--yes')).toContain('Removed 1 thing');
    expect([1, 2, 3, 4, 5].map((n) => existsSync(version(bench, n)))).toEqual([
      false,
      true,
      true,
      true,
      true,
    ]);
    expect(existsSync(bench.path('masters/m@1.json'))).toBe(false);

    // The former master goes when its last child is gone.
    await bench.must('reset', 'all');
    expect(paths(await bench.json<Collected>('gc', 'lab.yaml', 'vms'))).toEqual([version(bench, 2)]);
    await bench.must('gc', 'lab.yaml', 'vms', '--yes');
    await qemuCheck(bench.path('class/student-02.qcow2'));
    await mustRun('qemu-img', ['compare', bench.path('class/student-02.qcow2'), version(bench, 3)]);
    await mustRun('qemu-img', ['compare', bench.path('vms/strange.qcow2'), version(bench, 4)]);
  });

  it('keeps what images stand on in other ways: by a description of nodes, in an old format, with a header not understood', async () => {
    await using bench = await labWithVersions(6);
    const make = async (format: string, name: string, backing: string) => {
      const path = bench.path(name);
      await mustRun('qemu-img', ['create', '-q', '-f', format, '-F', 'qcow2', '-b', backing, path]);
      return path;
    };
    const node = { driver: 'qcow2', file: { driver: 'file', filename: version(bench, 1) } };
    await make('qcow2', 'described.qcow2', `json:${JSON.stringify(node)}`);
    await make('qcow', 'old.qcow', 'masters/m@2.qcow2');
    const newer = await make('qcow2', 'newer.qcow2', 'masters/m@3.qcow2');
    const bytes = readFileSync(newer);
    bytes[72 + 2] = 1;
    writeFileSync(newer, bytes);
    await make('qcow2', 'prefixed.qcow2', `file:${version(bench, 4)}`);
    const qed = await make('qed', 'other.qed', 'masters/m@5.qcow2');
    const found = await bench.json<Collected>('gc', 'masters', '--yes');
    expect(found.garbage).toEqual([]);
    expect(found.kept.map((one) => one.path)).toEqual([1, 2, 3, 4, 5].map((n) => version(bench, n)));
    const { code, err } = await bench.run('move', 'masters/m@3.qcow2', 'elsewhere/');
    expect([code, err]).toEqual([1, expect.stringContaining('cannot be read')]);
    await bench.must('move', 'masters/m@1.qcow2', 'elsewhere/');
    await qemuCheck(bench.path('described.qcow2'));
    expect((await run('qemu-img', ['map', bench.path('described.qcow2')])).code).toBe(0);
    await bench.must('move', 'masters/m@5.qcow2', 'elsewhere/');
    await mustRun('qemu-img', ['compare', qed, bench.path('elsewhere/m@5.qcow2')]);
  });

  it('keeps what a lab file names, what has no record, and what saved work stands on', async () => {
    await using bench = await labWithVersions(4);
    bench.write('other.yaml', { lab: 'other', master: 'masters/m@1.qcow2' });
    rmSync(bench.path('masters/m@2.json'));
    await bench.must('roll', 'm@3');
    await bench.must('reset', 'student-01');
    await bench.must('save', 'lab.yaml', 'student-01', 'far.qcow2');
    await bench.must('roll', 'm@4');
    await bench.must('reset', 'all');
    const found = await bench.json<Collected>('gc', 'lab.yaml');
    expect(paths(found)).toEqual([]);
    expect(found.kept.map((one) => one.why)).toEqual([
      expect.stringContaining('other.yaml'),
      expect.stringContaining('no record'),
      expect.stringContaining('far.qcow2'),
    ]);
  });

  it('keeps what a lab file with a mistake in it may name, and one beside the masters names', async () => {
    await using bench = await labWithVersions(3);
    await bench.must('down');
    bench.write('lab.yaml', { master: 'masters/m@1.qcow2', seats: 'what?' });
    writeFileSync(bench.path('play.yaml'), 'hosts: all\ntasks: [m@2]\n');
    bench.write('masters/near.yaml', { lab: 'near', master: 'm@2.qcow2' });
    const found = await bench.json<Collected>('gc', 'masters', '--yes');
    expect(paths(found)).toEqual([]);
    expect(found.kept.map((one) => one.why)).toEqual([
      expect.stringMatching(/lab.yaml' cannot be read, and may name it/),
      expect.stringContaining('near.yaml'),
    ]);
    const { code, err } = await bench.run('move', 'masters/m@1.qcow2', 'elsewhere/');
    expect([code, err]).toEqual([expect.any(Number), expect.stringContaining("lab.yaml' cannot be read")]);
    expect(existsSync(version(bench, 1))).toBe(true);
    bench.write('lab.yaml', { master: 'masters/m@3.qcow2' });
    expect(paths(await bench.json<Collected>('gc', 'masters', '--yes'))).toEqual([version(bench, 1)]);
  });

  it.skipIf(!isRoot)(
    'keeps what stood under something that lies on a disk which is not mounted',
    async ({ skip }) => {
      await using bench = await labBench();
      const disk = bench.path('disk');
      mkdirSync(disk);
      const mount = () => run('mount', ['-t', 'tmpfs', 'none', disk]);
      if ((await mount()).code !== 0) skip('mounting is not allowed here');
      try {
        bench.write('lab.yaml', { pool: 'disk/pools/class', seats: 2 });
        await bench.must('up');
        await bench.must('promote', 'student-01');
        await bench.must('roll', 'm@1');
        await bench.must('reset', 'all');
        await bench.must('save', 'lab.yaml', 'student-01', 'disk/work.qcow2');
        await bench.must('promote', 'student-02');
        await bench.must('promote', 'student-02');
        await bench.must('roll', 'm@2');
        await unmount(disk);
        rmSync(bench.path('lab.yaml'));
        const found = await bench.json<Collected>('gc', 'masters', '--yes');
        expect(paths(found)).toEqual([]);
        expect(found.kept.map((one) => one.why)).toEqual(
          [1, 2].map(() => expect.stringContaining('disk mounted?')),
        );
        expect((await bench.run('move', 'masters/m@1.qcow2', 'elsewhere/')).err).toContain('mount its disk');
      } finally {
        // Where it went well, nothing is mounted.
        await unmount(disk).catch(() => undefined);
      }
    },
  );

  it('lets up wait until it is done, and up makes nothing on what is gone then', async () => {
    await using bench = await labWithVersions(2);
    // Where gc does not find its lab file.
    await mustRun('mkdir', ['-p', bench.path('far/away/labs')]);
    const file = bench.write('far/away/labs/other.yaml', { lab: 'other', master: version(bench, 1) });
    const { path, what } = folderLock(bench.path('masters'));
    const collecting = await lockPool(path, what);
    const up = bench.run('up', file);
    const settled = await Promise.race([up, new Promise((resolve) => setTimeout(resolve, 400, 'waits'))]);
    expect(settled).toBe('waits');
    expect(existsSync(bench.path('far/away/labs/other/student-01.qcow2'))).toBe(false);
    rmSync(version(bench, 1));
    collecting[Symbol.dispose]();
    const { code, err } = await up;
    expect([code, err]).toEqual([1, expect.stringContaining('m@1.qcow2')]);
    expect(existsSync(bench.path('far/away/labs/other/student-01.qcow2'))).toBe(false);
    // The other way round: what up has made a note of is kept.
    const second = bench.write('far/away/labs/second.yaml', { lab: 'second', master: version(bench, 2) });
    await bench.must('up', second);
    await bench.must('promote', 'lab.yaml', 'student-01');
    const { garbage } = await bench.json<Collected>('gc', 'masters');
    expect(garbage.map((one) => one.path)).not.toContain(version(bench, 2));
  });

  it('removes what killed runs left, and keeps the guard of what is used', async () => {
    await using bench = await labWithVersions(1);
    const left = bench.path('masters/.m@new.qcow2.cowherd-4194303-1.00000000.aaaa.part');
    writeFileSync(left, 'half');
    await mustRun('touch', ['-d', '3 days ago', left]);
    renameSync(version(bench, 1), bench.path('gone'));
    const found = await bench.json<Collected>('gc', 'lab.yaml');
    expect(found.garbage.map((one) => one.kind).sort()).toEqual(['leftover', 'record', 'record']);
    await bench.must('gc', 'lab.yaml', '--yes');
    expect(existsSync(left)).toBe(false);
    expect(await bench.must('gc', 'lab.yaml')).toContain('nothing to remove');
    expect(await bench.must('up')).toContain('nothing to do');
  });
});

describe.skipIf(!qemu || !byteLocks())('guard', () => {
  it('lets QEMU refuse to write to a master while all clones are off, and no clone', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    bench.write('other.yaml', { lab: 'other', seats: 1, master: 'masters/n.raw' });
    await mustRun('cp', [bench.path('masters/m.raw'), bench.path('masters/n.raw')]);
    await bench.must('up');
    const ending = new AbortController();
    const context = testContext({ program: 'cowherd', cwd: bench.dir.path, signal: ending.signal });
    const guard = cowherd(['guard', 'lab.yaml', 'other.yaml', '--interval', '0.1'], context);
    const until = async (text: string) => {
      for (let i = 0; i < 600 && !context.out().includes(text); i++)
        await new Promise((go) => setTimeout(go, 50));
      expect(context.out()).toContain(text);
    };
    const master = bench.path('masters/m.raw');
    const write = () => run('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 512', master]);
    try {
      await until('guarding masters/m.raw');
      await mustRun('chmod', ['u+w', master]);
      const before = readFileSync(master);
      const refused = await write();
      expect([refused.code, refused.stderr]).toEqual([
        1,
        expect.stringContaining('Failed to get "write" lock'),
      ]);
      for (const args of [
        ['resize', '-f', 'raw', master, '+1M'],
        ['convert', '-n', '-f', 'raw', '-O', 'raw', bench.path('masters/n.raw'), master],
        ['commit', '-f', 'qcow2', bench.path('class/student-01.qcow2')],
      ]) {
        const { code, stderr } = await run('qemu-img', args);
        expect([code, stderr], args[0]).toEqual([1, expect.stringContaining('lock')]);
      }
      expect(readFileSync(master).equals(before)).toBe(true);
      // A clone is read and written as always.
      await mustRun('qemu-io', [
        '-f',
        'qcow2',
        '-c',
        'read -P 0x5a 0 1M',
        '-c',
        'write 0 1M',
        bench.path('class/student-01.qcow2'),
      ]);
      await bench.must('up', 'other.yaml');
      await until('guarding masters/n.raw');
      await bench.must('down');
      await until('released masters/m.raw');
      expect((await write()).code).toBe(0);
    } finally {
      ending.abort('SIGTERM');
    }
    expect(await guard).toBe(0);
    expect(context.err()).toBe('');
  });

  it('guards images of a folder that something stands on', async () => {
    await using bench = await labWithVersions(2);
    await bench.must('roll', 'm@1');
    await bench.must('reset', 'all');
    const ending = new AbortController();
    const context = testContext({ program: 'cowherd', cwd: bench.dir.path, signal: ending.signal });
    const guard = cowherd(['guard', '--pool', 'masters'], context);
    for (let i = 0; i < 600 && context.out() === ''; i++) await new Promise((go) => setTimeout(go, 50));
    expect(context.out()).toBe('guarding masters/m@1.qcow2\n');
    ending.abort('SIGTERM');
    expect(await guard).toBe(0);
  });

  it('guards copies of masters that a lab has put on a host, and says where to do that', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', {
      runner: 'libvirt',
      hosts: [{ name: 'a', libvirt: 'test:///default', pool: bench.path('pool') }],
    });
    mkdirSync(bench.path('pool'));
    const file = 'm+0123456789abcdef.raw';
    await mustRun('cp', [bench.path('masters/m.raw'), bench.path('pool', file)]);
    const record = { v: 1, file, bytes: 64 * 1024 * 1024, sha256: '0'.repeat(64), mtime: '1', format: 'raw' };
    writeFileSync(
      bench.path('pool', `${file}.copy.json`),
      `${JSON.stringify({ ...record, size: record.bytes, content: 'cowherd1:00' })}\n`,
    );
    writeFileSync(bench.path('pool/cut+0123456789abcdef.raw.copy.json'), '{"v":1,');
    const ending = new AbortController();
    const context = testContext({ program: 'cowherd', cwd: bench.dir.path, signal: ending.signal });
    const guard = cowherd(['guard', 'lab.yaml', '--pool', 'pool'], context);
    try {
      for (let i = 0; i < 600 && !context.out().includes('guarding'); i++)
        await new Promise((go) => setTimeout(go, 50));
      expect(context.out()).toBe(`guarding pool/${file}\n`);
      expect(context.err()).toContain(`guarded there: cowherd guard --pool ${bench.path('pool')}\n`);
      const { code, stderr } = await run('qemu-io', [
        '-f',
        'raw',
        '-c',
        'write 0 512',
        bench.path('pool', file),
      ]);
      expect([code, stderr]).toEqual([1, expect.stringContaining('lock')]);
    } finally {
      ending.abort('SIGTERM');
    }
    expect(await guard).toBe(0);
  });

  it.skipIf(!have('systemd-analyze'))('has a unit that systemd has nothing against', async () => {
    await using bench = await labBench();
    const unit = bench.path('cowherd-guard@srv-masters.service');
    writeFileSync(unit, await bench.must('guard', '--install'));
    expect(await run('systemd-analyze', ['verify', '--man=no', unit])).toMatchObject({ code: 0, stderr: '' });
  });

  it('prints the unit that is shipped', async () => {
    await using bench = await labBench();
    const shipped = new URL('../../contrib/systemd/cowherd-guard@.service', import.meta.url);
    expect(await bench.must('guard', '--install')).toBe(readFileSync(shipped, 'utf8'));
  });
});
