import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { processesWith } from '../../src/platform/processes-with.ts';
import { haveLibvirtd, startLibvirtd } from '../support/libvirtd.ts';
import { have, mustRun, tempDir } from '../support/programs.ts';
import { LabBench, labBench } from './support.ts';

const overlay = (base: string, path: string) =>
  mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, path]);
const states = async (bench: LabBench) => {
  const { seats } = await bench.json<{ seats: { name: string; state: string }[] }>('status', 'lab.yaml');
  return seats.map(({ state }) => state);
};

describe.skipIf(!have('qemu-system-x86_64') || !have('qemu-img'))('--stop', () => {
  let bench: LabBench;
  let runtime: string;
  const disk = (n: number) => bench.path(`class/student-0${n}.qcow2`);
  /** Nothing on its disk boots: it stays up until it is stopped. */
  const start = () => bench.must('start', 'lab.yaml');

  beforeAll(async () => {
    runtime = (await tempDir('rt-')).path;
    process.env.COWHERD_RUNTIME_DIR = runtime;
    bench = await labBench();
    bench.write('lab.yaml', { runner: 'qemu', memory: '16M', network: 'none', seats: 2 });
    await bench.must('up');
  }, 60_000);
  afterAll(async () => {
    process.env.COWHERD_RUNTIME_DIR = runtime;
    await bench?.run('stop', '--now');
    await bench?.[Symbol.asyncDispose]();
    delete process.env.COWHERD_RUNTIME_DIR;
    rmSync(runtime, { recursive: true, force: true });
  });

  it('stops nobody for what cannot be done anyhow', async () => {
    await bench.must('save', 'lab.yaml', 'student-02', 'work.qcow2');
    await start();
    const refused = async (words: RegExp, ...args: string[]) => {
      for (const more of [['--stop'], ['--stop', '--dry-run']]) {
        const { code, err } = await bench.run(args[0], 'lab.yaml', ...args.slice(1), ...more);
        expect([args, more, code > 0, err]).toEqual([args, more, true, expect.stringMatching(words)]);
        expect([args, more, await states(bench)]).toEqual([args, more, ['running', 'running']]);
      }
    };
    await refused(/There is no file/, 'restore', 'student-02', 'never.qcow2');
    await refused(/was saved from student-02/, 'restore', 'student-01', 'work.qcow2');
    await refused(/There is a file/, 'save', 'student-01', 'work.qcow2');
    await refused(/number of a version/, 'promote', 'student-01', '--as', 'm@7');
    await overlay(disk(2), bench.path('snap.qcow2'));
    await refused(/stands on/, 'reset', 'all');
    await refused(/stands on/, 'down');
    for (const verb of ['flatten', 'promote', 'compact']) await refused(/stands on/, verb, 'student-02');
    await refused(/stands on/, 'save', 'student-02', 'other.qcow2');
    await refused(/stands on/, 'restore', 'student-02', 'work.qcow2');
    rmSync(bench.path('snap.qcow2'));
  }, 120_000);

  it('says with --dry-run whom it would stop, and what would come then', async () => {
    const dry = async (...args: string[]) =>
      await bench.must(args[0], 'lab.yaml', ...args.slice(1), '--stop', '--dry-run');
    const before = bench.snapshot(bench.path('class'));
    expect(await dry('reset', 'student-02')).toMatch(
      /Would stop 1 seat: student-02\nWould throw away 1 disk/,
    );
    expect(await dry('down')).toMatch(/Would stop 2 seats: .*\nWould remove 2 seats/);
    expect(await dry('flatten', 'student-02')).toMatch(/Would stop 1 seat: .*\n.* would be made independent/);
    expect(await dry('promote', 'student-02')).toMatch(/Would stop 1 seat: .*\n.* would become m@1/);
    expect(await dry('compact')).toMatch(/Would stop 2 seats: .*\n.*when they are off/);
    expect(await dry('save', 'student-02', 'x.qcow2')).toMatch(/Would stop 1 seat: .*\nWould save/);
    expect(await dry('restore', 'student-02', 'work.qcow2')).toMatch(
      /Would stop 1 seat: .*\nWould throw away/,
    );
    const { stopped } = await bench.json<{ stopped: string[] }>(
      'reset',
      'lab.yaml',
      'all',
      '--stop',
      '--dry-run',
    );
    expect(stopped).toEqual(['student-01', 'student-02']);
    expect(bench.snapshot(bench.path('class'))).toEqual(before);
    expect(await states(bench)).toEqual(['running', 'running']);
    // Without --stop they are in the way.
    expect(await bench.run('reset', 'lab.yaml', 'all', '--dry-run')).toMatchObject({ code: 1 });
  }, 120_000);

  it('is of no use against a guest that the runner does not know, which stop says too', async () => {
    const known = processesWith(disk(1)).map(({ pid }) => pid);
    expect(known.length).toBe(1);
    const unknown = async (...args: string[]) => {
      process.env.COWHERD_RUNTIME_DIR = (await tempDir('rt-')).path;
      try {
        return await bench.run(args[0], 'lab.yaml', ...args.slice(1));
      } finally {
        rmSync(process.env.COWHERD_RUNTIME_DIR!, { recursive: true });
        process.env.COWHERD_RUNTIME_DIR = runtime;
      }
    };
    for (const args of [
      ['stop'],
      ['reset', 'all'],
      ['reset', 'all', '--stop'],
      ['down', '--stop'],
      ['flatten', 'student-01', '--stop'],
    ]) {
      const { code, err } = await unknown(...args);
      expect([args, code, err]).toEqual([
        args,
        1,
        expect.stringMatching(/in use: .*, by a program that this lab's runner does not know/),
      ]);
      expect(err).toContain(`process ${known[0]}`);
      expect(err).not.toContain('--stop');
    }
    expect(await states(bench)).toEqual(['running', 'running']);

    expect(await bench.must('stop', 'lab.yaml', '--now')).toContain('2 seats stopped');
    expect(await bench.must('stop', 'lab.yaml')).toContain('None of 2 seats was running');
  }, 120_000);

  it('does its work on guests that run', async () => {
    await start();
    expect(
      (await bench.json<{ stopped: string[] }>('reset', 'lab.yaml', 'student-01', '--stop')).stopped,
    ).toEqual(['student-01']);
    expect(await states(bench)).toEqual(['off', 'running']);
    await mustRun('qemu-img', ['check', '-q', disk(1)]);
    await bench.must('flatten', 'lab.yaml', 'student-02', '--stop');
    expect(await states(bench)).toEqual(['off', 'off']);
    await start();
    await bench.must('down', 'lab.yaml', '--stop');
    expect(processesWith(bench.path('masters/m.raw'))).toEqual([]);
  }, 120_000);
});

describe.skipIf(!haveLibvirtd)('--stop on a host with a pool of its own', () => {
  it('stops nobody for what cannot be done anyhow, and says with --dry-run whom it would stop', async () => {
    await using libvirtd = await startLibvirtd();
    const bench = new LabBench(libvirtd.dir);
    for (const folder of ['masters', 'pool']) mkdirSync(bench.path(folder));
    await mustRun('truncate', ['-s', '8M', bench.path('masters/m.raw')]);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 9 1M 64k', bench.path('masters/m.raw')]);
    bench.write('lab.yaml', {
      ...{ seats: 2, runner: 'libvirt', memory: '16M', network: 'none', graphics: 'none' },
      hosts: [{ name: 'left', libvirt: libvirtd.uri, pool: bench.path('pool') }],
    });
    const running = async () => {
      const listed = await mustRun('virsh', ['-q', '-c', libvirtd.uri, 'list', '--name']);
      return listed.trim().split('\n').sort();
    };
    const all = ['class-student-01', 'class-student-02'];
    await bench.must('up', '--start');
    const snapshot = join(bench.path('pool'), 'snap.img');
    await overlay(bench.path('pool/student-02.qcow2'), snapshot);
    for (const args of [['reset', 'all'], ['down']]) {
      for (const more of [['--stop'], ['--stop', '--dry-run']]) {
        const { code, err } = await bench.run(args[0], 'lab.yaml', ...args.slice(1), ...more);
        expect([args, code, err]).toEqual([args, 1, expect.stringMatching(/snap.img' stands on/)]);
        expect(await running()).toEqual(all);
      }
    }
    rmSync(snapshot);
    for (const args of [['reset', 'all'], ['down']]) {
      expect(await bench.must(args[0], 'lab.yaml', ...args.slice(1), '--stop', '--dry-run')).toMatch(
        /Would stop 2 seats: student-0\[1-2\]|Would stop 2 seats: student-01, student-02/,
      );
      expect(await running()).toEqual(all);
    }
    expect(
      (await bench.json<{ stopped: string[] }>('reset', 'lab.yaml', 'all', '--stop')).stopped,
    ).toHaveLength(2);
    expect(await running()).toEqual(['']);
    await bench.must('up', '--start');
    await bench.must('down', '--stop');
    expect(await running()).toEqual(['']);
  }, 120_000);
});

describe.skipIf(!haveLibvirtd)('--stop of seats of which one cannot be stopped', () => {
  it('stops nobody where a host does not answer, or what runs in the place of one is not its domain', async () => {
    await using one = await startLibvirtd();
    await using two = await startLibvirtd();
    const bench = new LabBench(one.dir);
    mkdirSync(bench.path('masters'));
    await mustRun('truncate', ['-s', '8M', bench.path('masters/m.raw')]);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 9 1M 64k', bench.path('masters/m.raw')]);
    bench.write('lab.yaml', {
      ...{ seats: 4, runner: 'libvirt', memory: '16M', network: 'none', graphics: 'none' },
      hosts: [
        { name: 'left', libvirt: one.uri },
        { name: 'right', libvirt: two.uri },
      ],
    });
    const virsh = (...words: string[]) => mustRun('virsh', ['-q', '-c', one.uri, ...words]);
    const running = async () => (await virsh('list', '--name')).trim().split('\n').sort();
    const left = ['class-student-01', 'class-student-03'];
    await bench.must('up', '--start');
    expect(await running()).toEqual(left);
    const refused = async (words: RegExp, ...commands: string[][]) => {
      for (const args of commands) {
        const { code, err } = await bench.run(args[0], 'lab.yaml', ...args.slice(1));
        expect([args, code, err]).toEqual([args, 1, expect.stringMatching(words)]);
        expect([args, await running()]).toEqual([args, left]);
      }
    };
    const unknown = /2 seats perhaps in use: student-02, ?(student-)?04; the libvirt of right does not tell/;
    await two.kill();
    await refused(
      unknown,
      ['reset', 'all', '--stop'],
      ['reset', 'all', '--stop', '--dry-run'],
      ['down', '--stop'],
      ['compact', '--stop'],
    );
    await refused(
      /1 seat perhaps in use: student-02; /,
      ['reset', 'student-02'],
      [...['flatten', 'student-02', '--stop']],
    );
    expect((await bench.run('reset', 'lab.yaml', 'student-02')).err).not.toContain('--stop');
    // It takes no names of seats.
    expect((await bench.run('down', 'lab.yaml', '--stop')).err).not.toContain('name seats');
    await two.restart();

    // Somebody's own domain, by the UUID of a seat.
    const xml = await virsh('dumpxml', '--inactive', left[1]);
    await virsh('destroy', left[1]);
    await virsh('undefine', left[1]);
    writeFileSync(bench.path('own.xml'), xml.replace(/<metadata>[\s\S]*<\/metadata>/, ''));
    await virsh('define', bench.path('own.xml'));
    await virsh('start', left[1]);
    const foreign = /UUID of seat 'student-03', made by somebody else/;
    await refused(foreign, ['reset', 'all', '--stop'], ['compact', 'all', '--stop'], ['down', '--stop']);
    await virsh('destroy', left[1]);
    await virsh('undefine', left[1]);
    await bench.must('reset', 'lab.yaml', 'all', '--stop');
    expect(await running()).toEqual(['']);
    await bench.must('down');
  }, 180_000);
});
