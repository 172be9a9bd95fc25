import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun } from '../support/programs.ts';
import { type Answer, LabBench, poolNames } from './support.ts';

const MiB = 1024 * 1024;

interface Status {
  readonly seats: readonly { name: string; host?: string; state: string }[];
}

describe.skipIf(!haveLibvirtd)('seats on hosts that share a pool', () => {
  let bench: LabBench;
  const libvirts = new Map<string, TestLibvirtd>();
  const virsh = async (host: string, ...words: string[]) =>
    (await mustRun('virsh', ['-c', libvirts.get(host)!.uri, ...words])).trim();
  const domains = async (host: string) => (await virsh(host, 'list', '--all', '--name')).split('\n').sort();
  const running = (host: string) => virsh(host, 'list', '--name');
  const rest = { master: 'masters/m.raw', seats: ['s1', 's2'], memory: '16M', network: 'none' };
  const write = (names: Readonly<Record<string, string>>) =>
    bench.write('lab.yaml', {
      ...rest,
      runner: 'libvirt',
      hosts: Object.entries(names).map(([name, host]) => ({ name, libvirt: libvirts.get(host)!.uri })),
    });
  const both = { a: 'a', b: 'b' };
  const refused = (answer: Answer, words: RegExp, code = 1) =>
    expect([answer.code, answer.out + answer.err]).toEqual([code, expect.stringMatching(words)]);
  const stateOf = async (seat: string) => {
    const found = (await bench.json<Status>('status')).seats.find(({ name }) => name === seat)!;
    return `${found.host} ${found.state}`;
  };

  beforeAll(async () => {
    for (const name of ['a', 'b']) libvirts.set(name, await startLibvirtd());
    bench = new LabBench(libvirts.get('a')!.dir);
    mkdirSync(bench.path('masters'));
    // Nothing boots from it, and its guests stay.
    writeFileSync(bench.path('masters/m.raw'), new Uint8Array(8 * MiB).fill(0x5a, 0, MiB));
  }, 120_000);
  afterAll(async () => {
    for (const one of [...libvirts.values()].reverse()) await one[Symbol.asyncDispose]();
  }, 60_000);

  it('stay on a host that the lab file does not name, unless it is given up', async () => {
    write(both);
    await bench.must('up', '--start');
    expect([await running('a'), await running('b')]).toEqual(['class-s1', 'class-s2']);
    write({ a: 'a' });
    const told = /s2 is on the host b, which the lab file does not name[\s\S]*up --give-up b/;
    for (const command of ['plan', 'up', 'start']) refused(await bench.run(command), told);
    await bench.must('stop', 's1', '--now');
    refused(await bench.run('start'), told);
    expect(await running('a')).toBe('class-s1');
    refused(await bench.run('reset', 's2', '--dry-run'), told);
    refused(await bench.run('save', 's2', 'away.qcow2'), told);
    refused(await bench.run('down'), /s2 is on the host b[\s\S]*down --give-up b/);
    refused(await bench.run('roll', 'lab.yaml', 'masters/m.raw', '--dry-run'), told);
    refused(await bench.run('stop', '--now'), /s2 is on the host b[\s\S]*left alone/);
    expect([await running('a'), await running('b')]).toEqual(['', 'class-s2']);
    expect(await domains('a')).toEqual(['class-s1']);
    expect(await stateOf('s2')).toBe('b unknown');
    await bench.must('reset', 's1');
    // Without any host it is no other.
    bench.write('lab.yaml', { ...rest, runner: { libvirt: libvirts.get('a')!.uri } });
    refused(await bench.run('up'), /s1 is on the host a, which[\s\S]*1 more: see 'cowherd plan'/);
    expect(await domains('a')).toEqual(['class-s1']);

    write(both);
    expect(await stateOf('s2')).toBe('b running');
    await bench.must('stop', 's2', '--now');
    // A host that has another name now.
    write({ a: 'a', c: 'b' });
    refused(await bench.run('start', 's2'), /on the host b/);
    await bench.must('up');
    expect(await stateOf('s2')).toBe('c off');
    expect(await domains('a')).toEqual(['class-s1']);
    write(both);
    await bench.must('up');
    expect(await stateOf('s2')).toBe('b off');

    write({ a: 'a' });
    await bench.must('up', '--give-up', 'b');
    expect(await domains('a')).toEqual(['class-s1', 'class-s2']);
    expect(await bench.must('up')).toContain('nothing to do');
  }, 200_000);

  it('are removed from one of two that have one', async () => {
    write(both);
    // As the test before has left it: both have the domain, and one disk.
    expect(await domains('b')).toEqual(['class-s2']);
    await virsh('b', 'start', 'class-s2');
    const told = /hosts a and b both have the seat s2[\s\S]*--give-up s2@a' or '.*--give-up s2@b'/;
    for (const command of ['plan', 'up', 'start', 'down']) refused(await bench.run(command), told);
    refused(await bench.run('reset', 's2'), told);
    expect((await bench.run('status')).out).toMatch(/s2 .*on a; and on b/);
    refused(await bench.run('up', '--give-up', 's2@b'), /s2 runs on b, where[\s\S]*cowherd stop s2/);
    refused(await bench.run('up', '--give-up', 's2@a,s2@b'), /No other host/, 2);
    refused(await bench.run('up', '--give-up', 's1@a'), /No other host/, 2);
    expect(await bench.must('plan', '--give-up', 's2@a')).toContain('1 domain to remove');
    expect(await domains('a')).toEqual(['class-s1', 'class-s2']);
    // Its guest runs on, and the lab knows where.
    await bench.must('up', '--give-up', 's2@a');
    expect([await domains('a'), await running('b')]).toEqual([['class-s1'], 'class-s2']);
    expect(await stateOf('s2')).toBe('b running');
    await bench.must('up', '--give-up', 's2@a');
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('stop', 's2', '--now');
    expect(await running('b')).toBe('');

    // And given up when the lab goes: what is left on b is b's.
    write({ a: 'a' });
    await bench.must('down', '--give-up', 'b');
    expect(await domains('a')).toEqual(['']);
    expect(bench.snapshot(bench.dir.path)).not.toHaveProperty(bench.path('class'));
    await virsh('b', 'undefine', 'class-s2');
  }, 200_000);

  it('stay at the address that their host had, while their domains are there', async () => {
    write({ a: 'a' });
    await bench.must('up', '--start');
    write({ a: 'b' });
    const told = /s1, s2 are on what a was before \('qemu\+unix:[\s\S]*a-before[\s\S]*--give-up a/;
    for (const command of ['plan', 'up', 'down']) refused(await bench.run(command), told);
    expect(await stateOf('s1')).toBe('a unknown');
    expect(await bench.must('status')).toMatch(/s1 +unknown .*left at 'qemu\+unix:.*where it may run/);
    for (const command of ['start', 'stop'])
      refused(await bench.run(command), /s1, s2 are on what[\s\S]*left alone/);
    refused(await bench.run('reset', 's2'), /s2 is on what a was before/);
    refused(await bench.run('roll', 'lab.yaml', 'masters/m.raw', '--dry-run'), told);
    refused(await bench.run('up', '--give-up', 'b'), told);
    expect([await running('a'), await domains('b')]).toEqual(['class-s1\nclass-s2', ['']]);
    // While nobody answers under the new address its seats wait, and keep nobody else from anything.
    bench.write('lab.yaml', {
      ...{ ...rest, runner: 'libvirt', seats: ['s1', 's2', 's3'] },
      hosts: [
        { name: 'a', libvirt: `qemu+unix:///system?socket=${bench.path('nobody.sock')}` },
        { name: 'b', libvirt: libvirts.get('b')!.uri },
      ],
    });
    await bench.must('up');
    expect(await domains('b')).toEqual(['class-s3']);
    await virsh('b', 'undefine', 'class-s3');
    write({ a: 'b' });
    refused(await bench.run('up'), told);
    write({ before: 'a', b: 'b' });
    await bench.must('up', '--prune');
    // It may have another name, or another address that leads to it.
    write({ a: 'b', before: 'a' });
    await bench.must('up');
    expect([await stateOf('s1'), await domains('b')]).toEqual(['before running', ['']]);
    symlinkSync(libvirts.get('a')!.dir.file('libvirt-sock'), bench.path('other.sock'));
    const other = `qemu+unix:///system?socket=${bench.path('other.sock')}`;
    for (const libvirt of [libvirts.get('a')!.uri, other]) {
      bench.write('lab.yaml', { ...rest, runner: 'libvirt', hosts: [{ name: 'a', libvirt }] });
      await bench.must('up');
      expect(await stateOf('s1')).toBe('a running');
      expect(await bench.must('up')).toContain('nothing to do');
    }
    refused(await bench.run('up', '--give-up', 'a'), /names the host "a": nothing of it is given up/, 2);
    // One that answers and has none of them has nothing to say.
    await bench.must('stop', '--now');
    await virsh('a', 'undefine', 'class-s1');
    await virsh('a', 'undefine', 'class-s2');
    write({ a: 'b' });
    await bench.must('up');
    expect([await domains('a'), await domains('b')]).toEqual([[''], ['class-s1', 'class-s2']]);
    // One that does not answer may have them, until it is given up.
    const state = bench.path('class/.cowherd/lab-class.json');
    const gone = bench.path('gone.sock');
    writeFileSync(
      state,
      readFileSync(state, 'utf8').replace(libvirts.get('b')!.dir.file('libvirt-sock'), gone),
    );
    write({ a: 'a' });
    refused(await bench.run('up'), told);
    await bench.must('up', '--give-up', 'a');
    expect(await domains('a')).toEqual(['class-s1', 'class-s2']);
    await bench.must('down');
    for (const seat of ['s1', 's2']) await virsh('b', 'undefine', `class-${seat}`);
  }, 200_000);

  it('stay where they were when the lab had no hosts', async () => {
    const alone = () => bench.write('lab.yaml', { ...rest, runner: { libvirt: libvirts.get('a')!.uri } });
    alone();
    await bench.must('up', '--start');
    expect(await bench.must('up')).toContain('nothing to do');
    write({ b: 'b' });
    const told =
      /s1, s2 are at 'qemu\+unix:.*from when the lab had no hosts[\s\S]*name: here[\s\S]*--give-up \.'/;
    for (const command of ['plan', 'up', 'down']) refused(await bench.run(command), told);
    for (const command of ['start', 'stop'])
      refused(await bench.run(command), /s1, s2 are at[\s\S]*left alone/);
    expect([await running('a'), await domains('b')]).toEqual(['class-s1\nclass-s2', ['']]);
    // And back, as if nothing had been.
    alone();
    expect(await bench.must('up')).toContain('nothing to do');
    write({ b: 'b', here: 'a' });
    await bench.must('up');
    expect([await stateOf('s1'), await domains('b')]).toEqual(['here running', ['']]);
    await bench.must('down', '--stop');
    // Seats without domains just get them.
    bench.write('lab.yaml', { ...rest, runner: 'files' });
    await bench.must('up');
    write({ b: 'b' });
    await bench.must('up');
    expect(await domains('b')).toEqual(['class-s1', 'class-s2']);
    await bench.must('down');
    alone();
    await bench.must('up');
    write({ b: 'b' });
    await bench.must('up', '--give-up', '.');
    expect([await domains('a'), await domains('b')]).toEqual([
      ['class-s1', 'class-s2'],
      ['class-s1', 'class-s2'],
    ]);
    await bench.must('down');
    for (const seat of ['s1', 's2']) await virsh('a', 'undefine', `class-${seat}`);
  }, 200_000);

  it('make no disk where somebody else’s domain has a seat’s name', async () => {
    write(both);
    writeFileSync(
      bench.path('other.xml'),
      `<domain type='qemu'><name>class-s1</name><memory>16384</memory><os><type>hvm</type></os></domain>`,
    );
    await virsh('a', 'define', bench.path('other.xml'));
    const told = /s1: .* has a domain 'class-s1' that is not this seat's[\s\S]*domrename 'class-s1'/;
    refused(await bench.run('plan'), told);
    refused(await bench.run('up'), told);
    expect(bench.snapshot(bench.dir.path)).not.toHaveProperty(bench.path('class', 's1.qcow2'));
    await virsh('a', 'domrename', 'class-s1', 'other');
    await bench.must('up');
    expect(poolNames(bench)).toContain('s1.qcow2');
    await bench.must('down');
    expect(await domains('a')).toEqual(['other']);
  }, 200_000);
});
