import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { roomFor, spreadSeats } from '../../src/lab/remote/placement.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { unmount } from '../support/mounts.ts';
import { have, mustRun, tempDir } from '../support/programs.ts';
import { buildProgram, runProgram } from './kill.ts';
import { LabBench, labBench, qemuCheck } from './support.ts';

const MiB = 1024 * 1024;
const kills = process.env.COWHERD_LONG === '1' ? 30 : 2;

interface Status {
  readonly copies: readonly { host: string; sha256: string; state: string; current: boolean }[];
  readonly seats: readonly { name: string; host: string; state: string; disk: string; content: string }[];
}
interface Collected {
  readonly garbage: readonly { readonly kind: string; readonly files: readonly string[] }[];
  readonly kept: readonly { readonly host: string; readonly file: string; readonly why: string }[];
}
interface Started {
  readonly started: readonly { seat: string; ok: boolean; lines: string[] }[];
}

describe('seats on hosts with pools of their own', () => {
  const names = Array.from({ length: 8 }, (_, i) => `s${i}`);
  const spread = (rooms: Parameters<typeof spreadSeats>[1], before = new Map<string, string>()) =>
    names.map((name) => spreadSeats(names, rooms, before).get(name)).join('');

  it('are spread by what is free, by weight, and stay where they are', () => {
    expect(
      spread([
        { host: 'a', share: 1, seats: 30 },
        { host: 'b', share: 1, seats: 10 },
      ]),
    ).toBe('aaabaaab');
    expect(
      spread([
        { host: 'a', share: 1, seats: 30 },
        { host: 'b', share: 3, seats: 10 },
      ]),
    ).toBe('abababab');
    expect(
      spread(
        [
          { host: 'a', share: 1, seats: 0 },
          { host: 'b', share: 1, seats: 5 },
        ],
        new Map([['s0', 'a']]),
      ),
    ).toBe('abbbbbbb');
    // One that does not answer gets its part, and comes to it later.
    expect(
      spread([
        { host: 'a', share: 1, seats: 10 },
        { host: 'b', share: 1 },
      ]),
    ).toBe('abababab');
  });

  it('have room by what is scarcer, memory or disk; those that run have theirs', () => {
    const seat = { memory: 1024 * MiB, disk: 4096 * MiB };
    expect(roomFor({ memory: 4096 * MiB, disk: 1024 * 1024 * MiB }, seat, 2)).toBe(6);
    expect(roomFor({ memory: 4096 * MiB, disk: 8192 * MiB }, seat, 2)).toBe(2);
  });

  it('cannot be mixed with others, nor with what needs files here', async () => {
    await using bench = await labBench();
    const told = async (values: Record<string, unknown>) => {
      bench.write('lab.yaml', { runner: 'libvirt', ...values });
      return (await bench.run('plan')).err;
    };
    const host = (name: string, pool?: string) => ({ name, libvirt: 'test:///default', pool });
    expect(await told({ hosts: [host('a', '/p'), host('b')] })).toContain(
      'some hosts have a pool and some have none',
    );
    expect(await told({ hosts: [host('a', 'p')] })).toContain('must be an absolute path');
    expect(await told({ hosts: [host('a', '/p')], pool: 'x' })).toContain('pool is not there for hosts');
    bench.write('lab.yaml', { runner: 'libvirt', hosts: [host('a', '/p')] });
    expect((await bench.run('promote', 'student-01')).err).toContain(
      'not there for labs whose hosts have pools',
    );
  });
});

describe.skipIf(!haveLibvirtd || !have('mount'))('a lab over two libvirts with pools of their own', () => {
  let bench: LabBench;
  const libvirts = new Map<string, TestLibvirtd>();
  const hosts = ['left', 'right'] as const;
  const socket = (host: string) => bench.path(`${host}.sock`);
  const uri = (host: string) => `qemu+unix:///system?socket=${socket(host)}`;
  const connect = (host: string) =>
    symlinkSync(join(libvirts.get(host)!.dir.path, 'libvirt-sock'), socket(host));
  const pool = (host: string) => bench.path(host, 'pool');
  const domains = async (host: string) =>
    (await mustRun('virsh', ['-c', uri(host), 'list', '--all', '--name'])).trim().split('\n').sort();
  const sha256 = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');
  const copies = (host: string) =>
    readdirSync(pool(host)).filter((name) => /\+[0-9a-f]{16}\.(raw|qcow2)$/.test(name));
  const lab = (values: Record<string, unknown> = {}) => ({
    master: 'masters/demo.raw',
    seats: 4,
    runner: 'libvirt',
    hosts: hosts.map((name) => ({ name, libvirt: uri(name), pool: pool(name) })),
    guest: 'demo',
    memory: '16M',
    network: 'none',
    disk: { size: '16M' },
    ...values,
  });

  beforeAll(async () => {
    bench = new LabBench(await tempDir('hosts-'));
    chmodSync(bench.dir.path, 0o755);
    // Folders of different room, which each libvirt sees for itself.
    for (const [host, size] of [
      ['left', '200M'],
      ['right', '64M'],
    ] as const) {
      mkdirSync(bench.path(host));
      await mustRun('mount', ['-t', 'tmpfs', '-o', `mode=755,size=${size}`, 'none', bench.path(host)]);
      libvirts.set(host, await startLibvirtd());
      connect(host);
    }
    mkdirSync(bench.path('masters'));
    await makeDemoMaster(bench.path('masters/demo.raw'), { size: 8 * MiB, payloadBytes: 0 });
  }, 120_000);
  afterAll(async () => {
    for (const one of libvirts.values()) await one[Symbol.asyncDispose]();
    for (const host of hosts) await unmount(bench.path(host)).catch(() => undefined);
    await bench[Symbol.asyncDispose]();
  }, 60_000);

  it('copies the master to each, makes seats there, boots and resets them; one that is down gets its own later', async () => {
    bench.write('lab.yaml', lab());
    rmSync(socket('right'));
    const planned = await bench.run('plan');
    expect([planned.code, planned.err]).toEqual([0, expect.stringContaining('the host right is not there')]);
    expect(existsSync(pool('left'))).toBe(false);
    const first = await bench.run('up');
    expect([first.code, first.err]).toEqual([0, expect.stringContaining('the host right is not there')]);
    expect(await domains('left')).toEqual(['class-student-01', 'class-student-03']);
    expect((await bench.run('start', 'student-02')).err).toContain(
      'nobody knows what these do, left alone: student-02',
    );

    connect('right');
    expect(await bench.must('up')).toContain('right: a copy of the master');
    expect(await domains('right')).toEqual(['class-student-02', 'class-student-04']);
    expect(await bench.must('up')).toContain('nothing to do');
    for (const host of hosts) {
      const [copy, ...others] = copies(host);
      expect(others).toEqual([]);
      expect(sha256(join(pool(host), copy))).toBe(sha256(bench.path('masters/demo.raw')));
      // Holes stay holes.
      expect(statSync(join(pool(host), copy)).blocks * 512).toBeLessThan(MiB);
      const seat = join(pool(host), host === 'left' ? 'student-01.qcow2' : 'student-02.qcow2');
      await qemuCheck(seat);
      expect(JSON.parse(await mustRun('qemu-img', ['info', '--output', 'json', seat]))).toMatchObject({
        'backing-filename': copy,
        'backing-filename-format': 'raw',
      });
      const xml = await mustRun('virsh', [
        '-c',
        uri(host),
        'dumpxml',
        host === 'left' ? 'class-student-01' : 'class-student-02',
      ]);
      expect(xml).toMatch(/content="cowherd1:[0-9a-f]{64}"/);
      expect(xml).toContain(`master="${join(pool(host), copy)}"`);
    }
    const boots = async (...seats: string[]) => {
      const { started } = await bench.json<Started>('start', 'lab.yaml', ...seats, '--watch');
      return started
        .map(({ seat, lines }) => `${seat} ${/seat=\S+ boots=\d+/.exec(lines.join())?.[0]}`)
        .sort();
    };
    const says = (n: number, times: number) => `student-0${n} seat=student-0${n} boots=${times}`;
    expect(await boots()).toEqual([1, 2, 3, 4].map((n) => says(n, 1)));
    await bench.must('reset', 'student-02', 'student-03');
    expect(await boots()).toEqual([says(1, 2), says(2, 1), says(3, 1), says(4, 2)]);

    // Another machine has the lab file alone.
    const elsewhere = new LabBench(await tempDir('hosts-'));
    try {
      copyFileSync(bench.path('lab.yaml'), elsewhere.path('lab.yaml'));
      const status = await elsewhere.json<Status>('status', '--verify');
      expect(status.seats.map(({ name, host, state, disk }) => `${name} ${host} ${state} ${disk}`)).toEqual([
        'student-01 left off ok',
        'student-02 right off ok',
        'student-03 left off ok',
        'student-04 right off ok',
      ]);
      expect(status.copies.map(({ host, state, current }) => `${host} ${state} ${current}`)).toEqual([
        'left verified true',
        'right verified true',
      ]);
      expect(new Set(status.copies.map((one) => one.sha256))).toEqual(
        new Set([sha256(bench.path('masters/demo.raw'))]),
      );
      expect(await elsewhere.must('up')).toContain('nothing to do');
    } finally {
      await elsewhere[Symbol.asyncDispose]();
    }

    rmSync(socket('right'));
    const { seats } = await bench.json<Status>('status');
    expect(seats.map(({ state }) => state)).toEqual(['off', 'unknown', 'off', 'unknown']);
    await bench.must('reset', 'student-01');
    expect((await bench.run('reset', 'student-02')).err).toContain(
      'On no host that answers: student-02 (not there: right)',
    );
    expect(await bench.must('up')).toContain('nothing to do');
    connect('right');
    expect(await boots('student-01', 'student-02')).toEqual([says(1, 1), says(2, 2)]);

    await bench.must('down');
    for (const host of hosts) {
      expect(await domains(host)).toEqual(['']);
      expect(readdirSync(pool(host))).toEqual([]);
    }
  }, 400_000);

  it('starts nobody on a copy that was written to, and makes it anew', async () => {
    bench.write('lab.yaml', lab());
    await bench.must('up');
    const copy = join(pool('right'), copies('right')[0]);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 9 4M 4k', copy]);
    const refused = await bench.run('start', 'student-01', 'student-04');
    expect([refused.code, refused.err]).toEqual([
      1,
      expect.stringMatching(/copy of the master on right is not what it was[\s\S]*Affected: student-04/),
    ]);
    expect(await bench.run('status', '--brief')).toMatchObject({
      code: 1,
      out: expect.stringContaining('master on right: touched since it was compared'),
    });
    expect(await bench.must('up')).toContain('right: a copy of the master');
    expect(sha256(copy)).toBe(sha256(bench.path('masters/demo.raw')));
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('down');
  }, 200_000);

  it('throws no disk away that a snapshot or a domain stands on, nor starts or defines its seat', async () => {
    bench.write('lab.yaml', lab());
    await bench.must('up');
    const disk = join(pool('left'), 'student-01.qcow2');
    const virsh = (...words: string[]) => mustRun('virsh', ['-c', uri('left'), ...words]);
    const refused = async (words: RegExp, ...args: string[]) => {
      const before = sha256(disk);
      const { code, out, err } = await bench.run(...args);
      expect([args, code, out + err]).toEqual([args, 1, expect.stringMatching(words)]);
      expect(sha256(disk)).toBe(before);
      expect(await domains('left')).toContain('class-student-01');
    };
    const everything = async (words: RegExp) => {
      await refused(words, 'reset', 'student-01', '--dry-run');
      await refused(words, 'reset', 'student-01');
      await refused(words, 'reset', 'all');
      await refused(words, 'down', '--dry-run');
      await refused(words, 'down');
      await refused(words, 'start', 'student-01');
    };
    // By the domain itself, in the folder and elsewhere.
    for (const file of [join(pool('left'), 'student-01.before'), bench.path('left', 'far.before')]) {
      const spec = `vda,snapshot=external,file=${file}`;
      await virsh('snapshot-create-as', 'class-student-01', 'before', '--disk-only', '--diskspec', spec);
      await everything(/another file now[\s\S]*before'[\s\S]*blockcommit/);
      bench.write('lab.yaml', lab({ memory: '17M' }));
      await refused(/another file now/, 'up');
      bench.write('lab.yaml', lab({ seats: ['student-02', 'student-03', 'student-04'] }));
      await refused(/another file now/, 'up', '--prune');
      bench.write('lab.yaml', lab());
      await virsh('undefine', 'class-student-01', '--snapshots-metadata');
      // Its domain is gone, and what stands on its disk is not.
      if (file.startsWith(pool('left'))) expect((await bench.run('up')).err).toContain(`stands on '${disk}'`);
      rmSync(file);
      await bench.must('up');
    }
    // By a file of any name, and by another domain.
    const other = join(pool('left'), 'copy-on-write.img');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', disk, other]);
    mkdirSync(join(pool('left'), 'folder'));
    await everything(/copy-on-write.img' stands on/);
    rmSync(other);
    const source = `<source file='${disk}'/><target dev='vda'/>`;
    const xml = `<domain type='qemu'><name>thief</name><memory>16384</memory><os><type>hvm</type></os><devices><disk type='file'>${source}</disk></devices></domain>`;
    writeFileSync(bench.path('thief.xml'), xml);
    await virsh('define', bench.path('thief.xml'));
    await everything(/The domain 'thief' has '.*' too/);
    await virsh('undefine', 'thief');
    rmSync(join(pool('left'), 'folder'), { recursive: true });
    await bench.must('reset', 'student-01');
    await bench.must('down');
    for (const host of hosts) expect(readdirSync(pool(host))).toEqual([]);
  }, 200_000);

  it('spreads seats by free disk, changes over to another master, and lets go of seats that are not listed', async () => {
    bench.write('lab.yaml', lab({ seats: 4 }));
    await bench.must('up');
    expect((await domains('left')).length).toBe(3);
    expect(await domains('right')).toEqual(['class-student-04']);
    await makeDemoMaster(bench.path('masters/other.raw'), { size: 8 * MiB, payloadBytes: 0, label: 'other' });
    bench.write('lab.yaml', lab({ seats: 3 }));
    const before = readFileSync(bench.path('lab.yaml'), 'utf8');
    expect(await bench.must('roll', 'lab.yaml', 'masters/other.raw', '--dry-run')).toContain(
      'student-01..04',
    );
    expect(readFileSync(bench.path('lab.yaml'), 'utf8')).toBe(before);
    expect(copies('left')).toHaveLength(1);
    const rolled = await bench.must('roll', 'lab.yaml', 'masters/other.raw');
    expect(rolled).toContain('kept, not listed: student-04');
    expect(rolled).toContain('Seats change over at their next reset: student-01..04');
    const disks = async () => (await bench.json<Status>('status')).seats.map(({ disk }) => disk);
    expect(await disks()).toEqual(['former', 'former', 'former', 'former']);
    const startFirst = async () =>
      (await bench.json<Started>('start', 'lab.yaml', 'student-01', '--watch')).started[0].lines.join();
    expect(await startFirst()).toContain('master=demo');
    await bench.must('reset', 'student-01');
    expect(await startFirst()).toContain('boots=1 master=other');
    expect(copies('left')).toHaveLength(2);
    await bench.must('reset', 'all');
    // The former one goes with its last seat.
    expect(copies('left')).toHaveLength(1);
    expect(await disks()).toEqual(['ok', 'ok', 'ok', 'former']);
    // A disk whose domain somebody has removed is somebody's work: what it stands on stays.
    const [other] = copies('left');
    await mustRun('virsh', ['-c', uri('left'), 'undefine', 'class-student-01']);
    await bench.must('roll', 'lab.yaml', 'masters/demo.raw');
    await mustRun('virsh', ['-c', uri('left'), 'undefine', 'class-student-01']);
    await bench.must('reset', 'student-02', 'student-03');
    await qemuCheck(join(pool('left'), 'student-01.qcow2'));
    await mustRun('qemu-img', ['info', '--backing-chain', join(pool('left'), 'student-01.qcow2')]);
    writeFileSync(join(pool('left'), 'gone+0123456789abcdef.raw'), 'half');
    writeFileSync(join(pool('left'), 'lost+0123456789abcdef.raw.copy.json'), '{}');
    const gc = (...args: string[]) => bench.json<Collected>('gc', 'lab.yaml', ...args);
    const found = await gc();
    expect(found.garbage.map(({ kind, files }) => [kind, ...files])).toEqual([
      ['cut off', 'gone+0123456789abcdef.raw'],
      ['record', 'lost+0123456789abcdef.raw.copy.json'],
    ]);
    expect(found.kept).toEqual([{ host: 'left', file: other, why: "'student-01.qcow2' stands on it" }]);
    expect(existsSync(join(pool('left'), 'gone+0123456789abcdef.raw'))).toBe(true);
    expect(await bench.must('gc', 'lab.yaml', '--yes')).toContain('Removed 2 things');
    rmSync(join(pool('left'), 'student-01.qcow2'));
    expect((await gc('--yes')).garbage).toMatchObject([
      { kind: 'copy', files: [`${other}.copy.json`, other] },
    ]);
    expect(copies('left')).toHaveLength(1);
    await bench.must('roll', 'lab.yaml', 'masters/other.raw');
    await bench.must('reset', 'all');
    expect(await gc()).toMatchObject({ garbage: [] });
    await bench.must('up', '--prune');
    expect(await domains('right')).toEqual(['']);
    expect(readdirSync(pool('right')).filter((name) => name.startsWith('student'))).toEqual([]);
    await bench.must('down');
    for (const host of hosts) expect(readdirSync(pool(host))).toEqual([]);
  }, 200_000);

  it(`killed ${kills} times while it copies, leaves nothing that looks whole and is not`, async () => {
    const program = await buildProgram(bench);
    const master = bench.path('masters/big.raw');
    writeFileSync(
      master,
      Buffer.concat(
        Array.from({ length: 12 }, (_, i) => createHash('sha512').update(`${i}`).digest()).map((one) =>
          Buffer.alloc(2 * MiB, one),
        ),
      ),
    );
    bench.write('lab.yaml', lab({ master: 'masters/big.raw', guest: 'any', disk: {}, seats: 2 }));
    const whole = sha256(master);
    const expectTrue = () => {
      for (const host of hosts) {
        if (!existsSync(pool(host))) continue;
        for (const name of readdirSync(pool(host)).filter((one) => one.endsWith('.copy.json'))) {
          const text = readFileSync(join(pool(host), name), 'utf8');
          // A record that was cut off is none.
          if (!text.endsWith('}\n')) continue;
          expect(sha256(join(pool(host), name.replace('.copy.json', '')))).toBe(whole);
        }
      }
    };
    const { ms, code, output } = await runProgram(program, bench, ['up']);
    expect(code, output).toBe(0);
    for (let i = 0; i < kills; i++) {
      await bench.must('down');
      await runProgram(program, bench, ['up'], ms * (0.2 + (0.8 * (i + 0.5)) / kills));
      expectTrue();
      // What libvirt still does for who was killed ends by itself; until then nobody else copies.
      for (let tries = 0; (await bench.run('up')).code !== 0; tries++) expect(tries).toBeLessThan(20);
      expectTrue();
      for (const host of hosts) {
        const seats = (await domains(host))
          .filter((name) => name !== '')
          .map((name) => name.replace('class-', ''));
        for (const seat of seats) {
          const disk = join(pool(host), `${seat}.qcow2`);
          await qemuCheck(disk);
          await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', disk, master]);
        }
      }
      expect(await bench.must('up')).toContain('nothing to do');
    }
    await bench.must('down');
  }, 1_800_000);
});
