import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun, run, tempDir } from '../support/programs.ts';
import { type Answer, LabBench } from './support.ts';

const MiB = 1024 * 1024;
/** The same on every host, as it is with hosts that are set up alike; each libvirtd has its own there. */
const pool = '/var/lib/libvirt/herd';

interface Status {
  readonly seats: readonly { name: string; host: string; state: string; disk: string; wrong?: string }[];
}
interface HostRecord {
  readonly folder: string;
  readonly seats: Record<string, string>;
  readonly hosts: Record<string, { uri: string; folder: string }>;
}

describe.skipIf(!haveLibvirtd)('a name in the lab file stands for the machine that it was given to', () => {
  let bench: LabBench;
  const libvirts = new Map<string, TestLibvirtd>();
  const uri = (machine: string) => libvirts.get(machine)!.uri;
  const virsh = async (machine: string, ...words: string[]) =>
    (await mustRun('virsh', ['-c', uri(machine), ...words])).trim();
  const there = async (machine: string, ...words: string[]) =>
    (await run('nsenter', ['-m', '-t', libvirts.get(machine)!.namespace, ...words])).stdout;
  const domains = async (machine: string) =>
    (await virsh(machine, 'list', '--all', '--name')).split('\n').sort();
  const files = async (machine: string) => (await there(machine, 'ls', pool)).split('\n').filter(Boolean);
  const disk = (seat: string) => join(pool, `${seat}.qcow2`);
  /** SHA-256 of a seat's disk. */
  const sum = async (machine: string, seat: string) =>
    (await there(machine, 'sha256sum', disk(seat))).slice(0, 64);
  const record = async (machine: string) =>
    JSON.parse(await there(machine, 'sh', '-c', `cat ${pool}/class.*.seats.json`)) as HostRecord;
  /** Hosts by name: the machine, or an address of its own. */
  const write = (hosts: Readonly<Record<string, string>>, values: Record<string, unknown> = {}) =>
    bench.write('lab.yaml', {
      master: 'masters/m.raw',
      seats: ['s1', 's2'],
      runner: 'libvirt',
      hosts: Object.entries(hosts).map(([name, at]) => ({
        ...{ name, pool, libvirt: at.includes(':') ? at : uri(at) },
      })),
      memory: '16M',
      network: 'none',
      disk: { size: '16M' },
      ...values,
    });
  const refused = (answer: Answer, words: RegExp, code = 1) =>
    expect([answer.code, answer.out + answer.err]).toEqual([code, expect.stringMatching(words)]);
  const hostsOfSeats = async () =>
    (await bench.json<Status>('status')).seats.map(({ name, host }) => `${name} ${host}`).join();
  /** `s1` on the machine 1, `s2` on 2. */
  const onBoth = async () => {
    write({ a: '1' }, { seats: ['s1'] });
    await bench.must('up');
    write({ a: '1', b: '2' });
    await bench.must('up');
    expect([await domains('1'), await domains('2')]).toEqual([['class-s1'], ['class-s2']]);
  };

  beforeAll(async () => {
    bench = new LabBench(await tempDir('machines-'));
    chmodSync(bench.dir.path, 0o755);
    for (const machine of ['1', '2']) libvirts.set(machine, await startLibvirtd());
    mkdirSync(bench.path('masters'));
    // Nothing boots from it, and its guests stay.
    writeFileSync(bench.path('masters/m.raw'), new Uint8Array(8 * MiB).fill(0x5a, 0, MiB));
  }, 120_000);
  afterEach(async () => {
    for (const machine of libvirts.keys()) {
      for (const domain of (await domains(machine)).filter((one) => one !== '')) {
        await virsh(machine, 'destroy', domain).catch(() => undefined);
        await virsh(machine, 'undefine', domain, '--managed-save');
      }
      const pools = (await virsh(machine, 'pool-list', '--name'))
        .split('\n')
        .filter((one) => one.trim() !== '');
      for (const one of pools) await virsh(machine, 'pool-destroy', one.trim());
      await there(machine, 'rm', '-rf', pool);
    }
    rmSync(bench.path('.cowherd'), { recursive: true, force: true });
  }, 60_000);
  afterAll(async () => {
    for (const one of libvirts.values()) await one[Symbol.asyncDispose]();
    await bench?.[Symbol.asyncDispose]();
  }, 60_000);

  it('and seats are not made anew where it is given to another one', async () => {
    write({ a: '1' });
    await bench.must('up', '--start');
    const sums = [await sum('1', 's1'), await sum('1', 's2')];
    write({ a: '2' });
    const told = /s1, s2 are on what a was before \('qemu\+unix:[\s\S]*a-before[\s\S]*up --give-up a/;
    refused(await bench.run('plan'), told);
    refused(await bench.run('up', '--start'), told);
    refused(await bench.run('roll', 'lab.yaml', 'masters/m.raw', '--dry-run'), told);
    refused(await bench.run('reset', 's1'), /s1 is on what a was before/);
    refused(await bench.run('start'), /left alone: s1, s2/);
    refused(await bench.run('stop', '--now'), /left alone: s1, s2/);
    // Taken down there, the seats and the record of them stay.
    refused(await bench.run('down'), /on what a was before[\s\S]*down --give-up a/);
    refused(await bench.run('up'), told);
    expect((await bench.json<Status>('status')).seats[0]).toMatchObject({
      ...{ host: 'a', state: 'unknown', disk: 'unknown', wrong: expect.stringContaining('as it was before') },
    });
    expect([await domains('2'), await files('2')]).toEqual([[''], []]);
    expect(await virsh('1', 'list', '--name')).toBe('class-s1\nclass-s2');

    // Named too, it has its seats, under whatever name.
    write({ a: '2', 'a-before': '1' });
    await bench.must('up');
    expect(await hostsOfSeats()).toBe('s1 a-before,s2 a-before');
    write({ a: '1' });
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    refused(await bench.run('up', '--give-up', 'a'), /names the host "a": nothing of it is given up/, 2);

    write({ a: '2' });
    expect(await bench.must('plan', '--give-up', 'a')).toContain('a: 2 disks  s1, s2');
    await bench.must('up', '--give-up', 'a');
    expect(await bench.must('up')).toContain('nothing to do');
    expect(await domains('2')).toEqual(['class-s1', 'class-s2']);
    expect([await sum('1', 's1'), await sum('1', 's2')]).toEqual(sums);
    expect(await virsh('1', 'list', '--name')).toBe('class-s1\nclass-s2');
    await bench.must('down');
    expect(await files('2')).toEqual([]);
  }, 200_000);

  it('also for who has nothing but the lab file, and where the former address does not answer', async () => {
    await onBoth();
    await virsh('1', 'undefine', 'class-s1');
    rmSync(bench.path('.cowherd'), { recursive: true, force: true });
    write({ b: '2', a: '1' });
    await bench.must('up');
    rmSync(bench.path('.cowherd'), { recursive: true, force: true });
    // The machine 1 is gone, and 2 has its name, too.
    await there('1', 'mv', pool, `${pool}.away`);
    await virsh('1', 'undefine', 'class-s1');
    await virsh('1', 'pool-destroy', (await virsh('1', 'pool-list', '--name')).trim());
    write({ a: '2' });
    refused(await bench.run('up'), /s1 is on what a was before/);
    // What was b is found by its own record.
    await bench.must('up', '--give-up', 'a');
    expect(await hostsOfSeats()).toBe('s1 a,s2 a');
    const { folder, hosts } = await record('2');
    expect(hosts).toEqual({ a: expect.objectContaining({ folder, uri: uri('2') }) });
    await there('1', 'rm', '-rf', `${pool}.away`);
  }, 200_000);

  it('goes on with the same machine under another address', async () => {
    write({ a: '1' });
    await bench.must('up');
    const sums = [await sum('1', 's1'), await sum('1', 's2')];
    symlinkSync(libvirts.get('1')!.dir.file('libvirt-sock'), bench.path('other.sock'));
    const other = `qemu+unix:///system?socket=${bench.path('other.sock')}`;
    // One that answers to nobody at first, as a slip of the pen does.
    write({ a: `${other}x` });
    expect((await bench.run('up')).err).toContain('the host a is not there');
    write({ a: other });
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    expect([await sum('1', 's1'), await sum('1', 's2')]).toEqual(sums);
    expect((await record('1')).hosts.a.uri).toBe(other);
    const own = JSON.parse(readFileSync(bench.path('.cowherd/hosts-class.json'), 'utf8')) as HostRecord;
    expect(own.hosts.a.uri).toBe(other);
    // Not even its domains are needed for that.
    for (const seat of ['s1', 's2']) await virsh('1', 'undefine', `class-${seat}`);
    write({ a: '1' });
    await bench.must('up');
    expect([await sum('1', 's1'), await sum('1', 's2')]).toEqual(sums);
    expect(await domains('1')).toEqual(['class-s1', 'class-s2']);
    await bench.must('down');
    expect(bench.snapshot(bench.dir.path)).not.toHaveProperty(bench.path('.cowherd'));
  }, 200_000);

  it('and knows machines whose names were exchanged', async () => {
    await onBoth();
    const sums = [await sum('1', 's1'), await sum('2', 's2')];
    write({ a: '2', b: '1' });
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    expect(await hostsOfSeats()).toBe('s1 b,s2 a');
    const marks = [(await record('1')).folder, (await record('2')).folder];
    expect(await record('1')).toMatchObject({ hosts: { b: { folder: marks[0] }, a: { folder: marks[1] } } });
    // By their disks alone, too.
    await virsh('1', 'undefine', 'class-s1');
    await virsh('2', 'undefine', 'class-s2');
    write({ a: '1', b: '2' });
    await bench.must('up');
    expect(await hostsOfSeats()).toBe('s1 a,s2 b');
    expect([await sum('1', 's1'), await sum('2', 's2')]).toEqual(sums);
    expect([await domains('1'), await domains('2')]).toEqual([['class-s1'], ['class-s2']]);
    await bench.must('down');
    for (const machine of libvirts.keys()) expect(await files(machine)).toEqual([]);
  }, 200_000);

  it('also when the lab file names no host any more, or none with a pool of its own', async () => {
    write({ a: '1' });
    await bench.must('up', '--start');
    const rest = {
      master: 'masters/m.raw',
      seats: ['s1', 's2'],
      memory: '16M',
      network: 'none',
      disk: { size: '16M' },
    };
    const local = () => bench.write('lab.yaml', { ...rest, runner: { libvirt: uri('2') } });
    local();
    const told = /s1, s2 are on the host a, which the lab file does not name[\s\S]*--give-up a/;
    for (const command of ['plan', 'up', 'down']) refused(await bench.run(command), told);
    refused(await bench.run('up', '--give-up', 'b'), told);
    bench.write('lab.yaml', { ...rest, runner: 'libvirt', hosts: [{ name: 'a', libvirt: uri('1') }] });
    for (const command of ['plan', 'up', 'down'])
      refused(await bench.run(command), /on what a was before[\s\S]*--give-up a/);
    expect(existsSync(bench.path('class', 's1.qcow2'))).toBe(false);
    expect([await virsh('1', 'list', '--name'), await domains('2')]).toEqual(['class-s1\nclass-s2', ['']]);
    write({ a: '1' });
    expect(await bench.must('up')).toContain('nothing to do');
    local();
    await bench.must('up', '--give-up', 'a');
    expect(await bench.must('up')).toContain('nothing to do');
    expect([await virsh('1', 'list', '--name'), await domains('2')]).toEqual([
      'class-s1\nclass-s2',
      ['class-s1', 'class-s2'],
    ]);
    // And now these are the lab's, whatever the host says.
    write({ a: '1' });
    const here = /s1, s2 are in this folder, from when no host had a pool of its own[\s\S]*--give-up \.'/;
    for (const command of ['plan', 'up']) refused(await bench.run(command), here);
    local();
    await bench.must('down');
  }, 200_000);

  it('nor are seats forgotten that this machine has, when the lab gets hosts', async () => {
    bench.write('lab.yaml', { seats: ['s1', 's2'], disk: { size: '16M' } });
    await bench.must('up');
    const before = readFileSync(bench.path('class', 's1.qcow2'));
    write({ a: '1' });
    const told = /s1, s2 are in this folder, from when no host had a pool of its own[\s\S]*--give-up \.'/;
    for (const command of ['plan', 'up']) refused(await bench.run(command), told);
    refused(await bench.run('roll', 'lab.yaml', 'masters/m.raw', '--dry-run'), told);
    expect((await bench.run('down')).err).toContain('left alone: s1, s2');
    // Nor while the disk that they are on is not mounted.
    renameSync(bench.path('class'), bench.path('elsewhere'));
    const lost = /s1, s2\) on m\.raw were made there[\s\S]*is its disk mounted\?[\s\S]*--give-up \.'/;
    for (const command of ['plan', 'up']) refused(await bench.run(command), lost);
    renameSync(bench.path('elsewhere'), bench.path('class'));
    expect([await domains('1'), await files('1')]).toEqual([[''], []]);
    await bench.must('up', '--give-up', '.');
    expect(await bench.must('up')).toContain('nothing to do');
    expect(await domains('1')).toEqual(['class-s1', 'class-s2']);
    expect(readFileSync(bench.path('class', 's1.qcow2')).equals(before)).toBe(true);
    await bench.must('down');
    bench.write('lab.yaml', { seats: ['s1', 's2'], disk: { size: '16M' } });
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('down');
  }, 200_000);
});
