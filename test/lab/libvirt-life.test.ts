import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowherd } from '../../src/lab/cowherd.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { byteLocks } from '../../src/platform/byte-locks.ts';
import { freePort } from '../nbd/support.ts';
import { testContext } from '../support/cli-context.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { bootToEnd, LabBench, qemuCheck } from './support.ts';

const MiB = 1024 * 1024;

describe.skipIf(!haveLibvirtd)('the life of a lab under libvirt', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  const seat = (n: number) => bench.path(`class/student-0${n}.qcow2`);

  /** Boots seats to their end; `student-01: demo 3` is its master and its count of boots. */
  async function boot(...seats: string[]): Promise<readonly string[]> {
    const started = await bootToEnd(bench, ...seats);
    return started
      .map(({ seat: name, said }) => {
        const [, own, boots, master] = /^cowherd seat=(\S+) boots=(\d+) master=(\S+)/.exec(said) ?? [];
        expect(own).toBe(name);
        return `${name}: ${master} ${boots}`;
      })
      .sort();
  }

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    bench = new LabBench(libvirtd.dir);
    mkdirSync(bench.path('masters'));
    for (const label of ['demo', 'next'])
      await makeDemoMaster(bench.path('masters', `${label}.raw`), { size: 8 * MiB, payloadBytes: 0, label });
    bench.write('lab.yaml', {
      master: 'masters/demo.raw',
      seats: 3,
      runner: { libvirt: libvirtd.uri },
      guest: 'demo',
      memory: '16M',
      network: 'none',
    });
    await bench.must('up');
  }, 120_000);
  afterAll(async () => {
    await bench?.run('down', '--stop');
    await libvirtd?.[Symbol.asyncDispose]();
  }, 120_000);

  it('saves and restores work, makes a seat independent, and rolls: guests boot from what is meant', async () => {
    const all = (one: string, two: string, three: string) => [
      `student-01: ${one}`,
      `student-02: ${two}`,
      `student-03: ${three}`,
    ];
    expect(await boot()).toEqual(all('demo 1', 'demo 1', 'demo 1'));
    await bench.must('save', 'lab.yaml', 'student-01', 'work.qcow2');
    await bench.must('flatten', 'lab.yaml', 'student-02');
    expect(await boot()).toEqual(all('demo 2', 'demo 2', 'demo 2'));
    await bench.must('restore', 'lab.yaml', 'student-01', 'work.qcow2');
    expect(await boot('student-01')).toEqual(['student-01: demo 2']);
    expect(JSON.parse(await mustRun('qemu-img', ['info', '--output=json', seat(2)]))).not.toHaveProperty(
      'backing-filename',
    );

    await bench.must('roll', 'lab.yaml', 'masters/next.raw');
    expect(await boot()).toEqual(all('demo 3', 'demo 3', 'demo 3'));
    await bench.must('reset', 'lab.yaml', 'student-02', 'student-03');
    expect(await boot()).toEqual(all('demo 4', 'next 1', 'next 1'));
    await bench.must('reset', 'lab.yaml', 'student-01');
    expect(await boot('student-01')).toEqual(['student-01: next 1']);
    for (const n of [1, 2, 3]) await qemuCheck(seat(n));
    const xml = await mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', '--inactive', 'class-student-01']);
    expect(xml).toContain(bench.path('masters/next.raw'));
    expect(xml).not.toContain('demo.raw');
    expect(await bench.must('up')).toContain('nothing to do');
  }, 300_000);

  it('leaves a domain alone that runs on a snapshot of its seat, until that is committed', async () => {
    const domain = 'class-student-03';
    const virsh = (...words: string[]) => mustRun('virsh', ['-c', libvirtd.uri, ...words]);
    const lab = {
      ...{
        master: 'masters/demo.raw',
        seats: ['student-03'],
        runner: { libvirt: libvirtd.uri },
        pool: 'snapped',
      },
      ...{ lab: 'snapped', guest: 'demo', memory: '16M', network: 'none' },
    };
    bench.write('snapped.yaml', lab);
    await bench.must('up', 'snapped.yaml');
    const disk = bench.path('snapped/student-03.qcow2');
    const name = domain.replace('class', 'snapped');
    for (const place of ['snapped/student-03.before', 'elsewhere.before']) {
      const file = bench.path(place);
      const spec = `vda,snapshot=external,file=${file}`;
      await virsh('snapshot-create-as', name, 'before', '--disk-only', '--diskspec', spec);
      const before = readFileSync(disk);
      const xml = await virsh('dumpxml', '--inactive', name);
      expect(xml).toContain(file);
      const refused = async (...args: string[]) => {
        const { code, err } = await bench.run(args[0], 'snapped.yaml', ...args.slice(1));
        expect([place, args, code, err]).toEqual([place, args, 1, expect.stringMatching(/blockcommit/)]);
        expect(readFileSync(disk).equals(before)).toBe(true);
        expect(await virsh('dumpxml', '--inactive', name)).toBe(xml);
      };
      await refused('start');
      await refused('save', 'student-03', 'snapped.qcow2');
      await refused('flatten', 'student-03');
      bench.write('snapped.yaml', { ...lab, memory: '17M' });
      await refused('up');
      await refused('start');
      if (place === 'elsewhere.before') {
        await refused('reset', 'student-03');
        await refused('reset', 'student-03', '--dry-run');
        await refused('down');
      }
      // As the message says: what is there is given up.
      await virsh('undefine', name, '--snapshots-metadata');
      rmSync(file);
      bench.write('snapped.yaml', lab);
      await bench.must('up', 'snapped.yaml');
    }
    await bench.must('down', 'snapped.yaml');
  }, 120_000);

  it.skipIf(!have('setpriv'))(
    'doctor looks at a domain, its disk and what that stands on',
    async () => {
      const look = () =>
        bench.json<{ files: number; ailments: { path: string; fix: string }[] }>(
          ...['doctor', 'class-student-02', '--connect', libvirtd.uri, '--user', 'nobody'],
        );
      chmodSync(bench.path('masters'), 0o700);
      const { ailments } = await look();
      expect(ailments.map((one) => one.path)).toEqual(
        expect.arrayContaining([bench.path('masters'), seat(2)]),
      );
      expect(ailments.map((one) => one.path)).not.toContain(seat(1));
      for (const { fix } of ailments) await mustRun('sh', ['-c', fix]);
      const dropped = ['--reuid=nobody', '--regid=nogroup', '--clear-groups'];
      const qemu = ['qemu-io', '-f', 'qcow2', '-c', 'read 0 1M', '-c', 'write 2M 64k', seat(2)];
      await mustRun('setpriv', [...dropped, ...qemu]);
      expect((await look()).ailments).toEqual([]);
      const gone = await bench.run('doctor', 'class-nobody', '--connect', libvirtd.uri);
      expect([gone.code, gone.err]).toEqual([1, expect.stringContaining('class-nobody')]);
    },
    120_000,
  );

  it('a guest of another host boots from what is served here, and its work is in the seat', async () => {
    const [before] = await boot('student-01');
    const [, master, boots] = /: (\S+) (\d+)$/.exec(before)!;
    const lab = readFileSync(bench.path('lab.yaml'), 'utf8');
    writeFileSync(bench.path('lab.yaml'), `${lab}\nserve: { listen: "127.0.0.1:${await freePort()}" }\n`);
    await bench.must('serve', '--definitions', 'elsewhere');
    // The other host is this one, where the seat's own domain has the name, and there is only TCG.
    const xml = readFileSync(bench.path('elsewhere/student-01.xml'), 'utf8')
      .replace(/<(name|uuid)>.*<\/\1>/g, '')
      .replace('<title>', '<name>elsewhere</name><title>')
      .replace('type="kvm"', 'type="qemu"')
      .replace('host-passthrough', 'maximum');
    expect(xml).toContain('<source protocol="nbd" name="student-01">');
    writeFileSync(bench.path('elsewhere.xml'), xml);
    const ending = new AbortController();
    const context = testContext({ program: 'cowherd', cwd: bench.dir.path, signal: ending.signal });
    const server = cowherd(['serve', 'lab.yaml', 'student-01'], context);
    try {
      while (!context.out().includes('serving')) await sleep(50);
      const refused = await bench.run('start', 'lab.yaml', 'student-01');
      expect([refused.code, refused.out]).toEqual([
        1,
        expect.stringContaining('another program has its disk open'),
      ]);
      await mustRun('virsh', ['-c', libvirtd.uri, 'create', bench.path('elsewhere.xml')]);
      // It says how often it has booted, and powers off.
      const asked = ['-c', libvirtd.uri, 'domstate', 'elsewhere'];
      while ((await run('virsh', asked)).code === 0) await sleep(100);
    } finally {
      ending.abort('SIGTERM');
    }
    expect(await server).toBe(0);
    expect(await boot('student-01')).toEqual([`student-01: ${master} ${Number(boots) + 2}`]);
    await qemuCheck(seat(1));
  }, 120_000);

  it.skipIf(!byteLocks())(
    'clones boot while the master is guarded, and QEMU may not write to it',
    async () => {
      const ending = new AbortController();
      const context = testContext({ program: 'cowherd', cwd: bench.dir.path, signal: ending.signal });
      const guard = cowherd(['guard', 'lab.yaml'], context);
      try {
        while (!context.out().includes('guarding')) await new Promise((go) => setTimeout(go, 50));
        const [before] = await boot('student-03');
        await bench.must('reset', 'lab.yaml', 'student-03');
        expect(before).toMatch(/^student-03: next \d+$/);
        expect(await boot('student-03')).toEqual(['student-03: next 1']);
        const master = bench.path('masters/next.raw');
        const { code, stderr } = await run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', master]);
        expect([code, stderr]).toEqual([1, expect.stringContaining('lock')]);
      } finally {
        ending.abort('SIGTERM');
      }
      expect(await guard).toBe(0);
    },
    120_000,
  );
});
