import { chmodSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun, tempDir } from '../support/programs.ts';
import { type Answer, LabBench, qemuCheck } from './support.ts';

const MiB = 1024 * 1024;

interface Status {
  readonly seats: readonly { name: string; host: string; state: string; disk: string; wrong?: string }[];
}

describe.skipIf(!haveLibvirtd)('seats on hosts with pools of their own stay where they are', () => {
  let bench: LabBench;
  const libvirts = new Map<string, TestLibvirtd>();
  const names = ['a', 'b'] as const;
  const pool = (host: string, folder = 'pool') => bench.path(host, folder);
  const disk = (host: string, seat: string, folder?: string) => join(pool(host, folder), `${seat}.qcow2`);
  const virsh = async (host: string, ...words: string[]) =>
    (await mustRun('virsh', ['-c', libvirts.get(host)!.uri, ...words])).trim();
  const domains = async (host: string) => (await virsh(host, 'list', '--all', '--name')).split('\n').sort();
  const write = (hosts: readonly string[], values: Record<string, unknown> = {}, folder?: string) =>
    bench.write('lab.yaml', {
      master: 'masters/m.raw',
      seats: ['s1', 's2'],
      runner: 'libvirt',
      hosts: hosts.map((name) => ({ name, libvirt: libvirts.get(name)!.uri, pool: pool(name, folder) })),
      memory: '16M',
      network: 'none',
      disk: { size: '16M' },
      ...values,
    });
  const io = (file: string, command: string) => mustRun('qemu-io', ['-f', 'qcow2', '-c', command, file]);
  const work = (file: string) => io(file, 'write -P 0x77 1M 64k');
  const expectWork = async (file: string) =>
    expect(await io(file, 'read -P 0x77 1M 64k')).not.toContain('failed');
  /** `s1` on a, `s2` on b: which of them has more room is for chance to say. */
  const make = async () => {
    write(['a'], { seats: ['s1'] });
    await bench.must('up');
    write(names);
    await bench.must('up');
  };
  const placed = async (...hosts: string[]) =>
    (await bench.json<Status>('status')).seats.map(({ name, host }) => `${name} ${host}`).join() ===
    hosts.map((host, i) => `s${i + 1} ${host}`).join();
  const refused = (answer: Answer, words: RegExp, code = 1) =>
    expect([answer.code, answer.out + answer.err]).toEqual([code, expect.stringMatching(words)]);

  beforeAll(async () => {
    bench = new LabBench(await tempDir('strays-'));
    chmodSync(bench.dir.path, 0o755);
    for (const name of names) {
      libvirts.set(name, await startLibvirtd());
      mkdirSync(bench.path(name));
    }
    mkdirSync(bench.path('masters'));
    // Nothing boots from it, and its guests stay.
    writeFileSync(bench.path('masters/m.raw'), new Uint8Array(8 * MiB).fill(0x5a, 0, MiB));
  }, 120_000);
  afterEach(async () => {
    write(names);
    for (const name of names) {
      for (const domain of (await domains(name)).filter((one) => one !== '')) {
        await virsh(name, 'destroy', domain).catch(() => undefined);
        await virsh(name, 'undefine', domain, '--managed-save');
      }
      for (const folder of ['pool', 'pool2']) await mustRun('rm', ['-rf', pool(name, folder)]);
      for (const one of (await virsh(name, 'pool-list', '--name'))
        .split('\n')
        .filter((line) => line.trim() !== ''))
        await virsh(name, 'pool-destroy', one.trim());
    }
  }, 60_000);
  afterAll(async () => {
    for (const one of libvirts.values()) await one[Symbol.asyncDispose]();
    await bench?.[Symbol.asyncDispose]();
  }, 60_000);

  it('while the lab file does not name their host, and are made anew only where that is given up', async () => {
    await make();
    expect(await placed('a', 'b')).toBe(true);
    await work(disk('b', 's2'));
    write(['a']);
    const told = /s2 is on the host b, which the lab file does not name[\s\S]*--give-up b/;
    refused(await bench.run('plan'), told);
    refused(await bench.run('up', '--dry-run'), told);
    refused(await bench.run('up', '--start'), told);
    refused(await bench.run('roll', 'lab.yaml', 'masters/m.raw', '--dry-run'), told);
    refused(await bench.run('reset', 's2'), told);
    refused(await bench.run('start'), /left alone: s2/);
    expect(await virsh('a', 'list', '--name')).toBe('class-s1');
    await bench.must('reset', 's1', '--stop');
    refused(await bench.run('stop'), /left alone: s2/);
    expect(await domains('a')).toEqual(['class-s1']);
    expect((await bench.json<Status>('status')).seats[1]).toMatchObject({
      ...{ host: 'b', state: 'unknown', disk: 'unknown', wrong: expect.stringContaining('does not name') },
    });
    // Taken down without b, the others go, and the record that s2 is on b stays.
    refused(await bench.run('down'), /s2 is on the host b[\s\S]*down --give-up b/);
    expect(await domains('a')).toEqual(['']);
    refused(await bench.run('up'), told);
    write(names);
    await bench.must('up');
    expect(await placed('a', 'b')).toBe(true);
    await expectWork(disk('b', 's2'));
    refused(await bench.run('up', '--give-up', 'b'), /names the host "b": nothing of it is given up/, 2);
    refused(await bench.run('up', '--give-up', 's2@b'), /No other host than b has the seat/, 2);
    refused(await bench.run('up', '--give-up', 's2@c'), /names no host "c"/, 2);

    write(['a']);
    expect(await bench.must('plan', '--give-up', 'b')).toContain('a: 1 disk  s2');
    await bench.must('up', '--give-up', 'b');
    expect(await bench.must('up')).toContain('nothing to do');
    expect(await domains('a')).toEqual(['class-s1', 'class-s2']);
    await expectWork(disk('b', 's2'));
    await bench.must('down');
    expect(readdirSync(pool('a'))).toEqual([]);
  }, 200_000);

  it('though they are not listed while their host is away', async () => {
    await make();
    await work(disk('b', 's2'));
    write(['a'], { seats: ['s1'] });
    await bench.must('up');
    write(['a']);
    refused(await bench.run('up'), /s2 is on the host b/);
    await bench.run('down', '--give-up', 'b');
    expect(readdirSync(pool('a'))).toEqual([]);
  }, 200_000);

  it('and where two hosts have one, a person says which goes', async () => {
    await make();
    await work(disk('b', 's2'));
    write(['a']);
    await bench.must('up', '--give-up', 'b', '--start');
    write(names);
    await virsh('b', 'start', 'class-s2');
    const told = /hosts a and b both have the seat s2[\s\S]*--give-up s2@a' or '.*--give-up s2@b'/;
    for (const command of ['plan', 'up', 'down', 'start']) refused(await bench.run(command), told);
    refused(await bench.run('reset', 's2'), told);
    expect((await bench.json<Status>('status')).seats.map(({ name, host }) => `${name} ${host}`)).toEqual([
      ...['s1 a', 's2 a', 's2 b'],
    ]);
    await bench.must('gc');
    // Others go on.
    await bench.must('reset', 's1', '--stop');
    refused(await bench.run('up', '--give-up', 's2@a'), /s2 runs on a, where[\s\S]*cowherd stop s2/);
    refused(await bench.run('up', '--give-up', 's2@a,s2@b'), /names every host/, 2);
    expect(await bench.must('stop', 's2', '--now')).toMatch(/^1 seat stopped.*: s2$/m);
    for (const name of names) expect(await virsh(name, 'list', '--name')).toBe('');
    expect(await bench.must('up', '--give-up', 's2@a', '--dry-run')).toContain('- a: s2');
    expect(existsSync(disk('a', 's2'))).toBe(true);
    await bench.must('up', '--give-up', 's2@a');
    // What a kill left of it goes as well; and then there is nothing to do.
    expect(await domains('a')).toEqual(['class-s1']);
    expect(existsSync(disk('a', 's2'))).toBe(false);
    await bench.must('up', '--give-up', 's2@a');
    expect(await bench.must('up')).toContain('nothing to do');
    await expectWork(disk('b', 's2'));
    await qemuCheck(disk('b', 's2'));
    await bench.must('start', 's2');
    await bench.must('down', '--stop');
    for (const name of names) expect(readdirSync(pool(name))).toEqual([]);
  }, 200_000);

  it('when the lab file names another folder of a host', async () => {
    await make();
    for (const [host, seat] of [
      ['a', 's1'],
      ['b', 's2'],
    ])
      await work(disk(host, seat));
    write(names, {}, 'pool2');
    const told = /domains of s1 on a were made in another folder[\s\S]*put 'pool: .*a\/pool' back/i;
    for (const command of ['plan', 'up', 'down', 'start']) refused(await bench.run(command), told);
    refused(await bench.run('reset', 'all'), told);
    expect(existsSync(pool('a', 'pool2')) && readdirSync(pool('a', 'pool2'))).toEqual(false);
    expect((await bench.run('status')).out).toContain(`made in another folder: ${pool('a')}`);
    // One that is not listed may be another lab's.
    write(names, { seats: ['other'] }, 'pool2');
    await bench.must('up', '--prune');
    await bench.must('down');
    expect(await domains('a')).toEqual(['class-s1']);
    write(names);
    await expectWork(disk('a', 's1'));
    await expectWork(disk('b', 's2'));
    await bench.must('down');
    for (const name of names) expect(await domains(name)).toEqual(['']);
  }, 200_000);

  it('whatever clones of their domains say of themselves', async () => {
    await make();
    const xml = await virsh('a', 'dumpxml', 'class-s1');
    const clone = xml
      .replace('<name>class-s1<', '<name>clone<')
      .replace(/<uuid>.*<\/uuid>/, '')
      .replaceAll(disk('a', 's1'), bench.path('a', 'clone.qcow2'));
    writeFileSync(bench.path('clone.xml'), clone);
    await virsh('a', 'define', bench.path('clone.xml'));
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('reset', 's1');
    expect(await domains('a')).toContain('clone');
    // And no disk is made where somebody else's domain has a seat's name.
    const other = `<domain type='qemu'><name>class-s3</name><memory>16384</memory><os><type>hvm</type></os></domain>`;
    writeFileSync(bench.path('other.xml'), other);
    for (const name of names) await virsh(name, 'define', bench.path('other.xml'));
    write(names, { seats: ['s1', 's2', 's3'] });
    for (const command of ['plan', 'up']) refused(await bench.run(command), /s3: .* has a domain 'class-s3'/);
    for (const name of names) expect(existsSync(disk(name, 's3'))).toBe(false);
  }, 200_000);
});
