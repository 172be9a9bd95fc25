import { mkdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { placeSeats } from '../../src/lab/spec/hosts.ts';
import { haveLibvirtd, startLibvirtd } from '../support/libvirtd.ts';
import { mustRun } from '../support/programs.ts';
import { LabBench, labBench, qemuCheck } from './support.ts';

interface Status {
  readonly seats: readonly { name: string; host: string; state: string }[];
}
interface Started {
  readonly started: readonly { seat: string; ok: boolean; lines: string[] }[];
}

describe('seats on several hosts', () => {
  const names = Array.from({ length: 7 }, (_, i) => `s${i}`);
  const uri = 'qemu:///system';
  const spread = (placed: ReadonlyMap<string, string>) => names.map((name) => placed.get(name)).join('');

  it('are spread by shares, and stay where they are', () => {
    const [a, b, c] = [
      { name: 'a', uri, share: 1 },
      { name: 'b', uri, share: 2 },
      { name: 'c', uri, share: 1 },
    ];
    const first = placeSeats(names, [a, b], new Map());
    expect(spread(first)).toBe('babbabb');
    expect(spread(placeSeats(names, [c, b, a], first))).toBe('babbabb');
    // Those of a host that is not listed stay there, too: nobody knows what runs there.
    expect(spread(placeSeats([...names, 's7'], [c, b], first))).toBe('babbabb');
    expect(placeSeats([...names, 's7'], [c, b], first).get('s7')).toBe('c');
  });

  it('are named once, and have libvirt', async () => {
    await using bench = await labBench();
    const told = async (values: Record<string, unknown>) => {
      bench.write('lab.yaml', values);
      return (await bench.run('plan')).err;
    };
    const hosts = [
      { name: 'a', libvirt: 'test:///default' },
      { name: 'a', libvirt: 'test:///default' },
    ];
    expect(await told({ hosts, runner: 'libvirt' })).toContain('two hosts are called "a"');
    expect(await told({ hosts: hosts.slice(1), runner: 'files' })).toContain('hosts say themselves');
  });
});

describe.skipIf(!haveLibvirtd)('a lab over two libvirts', () => {
  it('defines, starts and resets seats on both; one that is down delays its own alone', async () => {
    await using one = await startLibvirtd();
    const two = await startLibvirtd();
    let stopped = false;
    try {
      const bench = new LabBench(one.dir);
      mkdirSync(bench.path('masters'));
      await makeDemoMaster(bench.path('masters/demo.raw'), { size: 8 * 1024 * 1024, payloadBytes: 0 });
      bench.write('lab.yaml', {
        master: 'masters/demo.raw',
        seats: 4,
        runner: 'libvirt',
        hosts: [
          { name: 'left', libvirt: one.uri },
          { name: 'right', libvirt: two.uri },
        ],
        guest: 'demo',
        memory: '16M',
        network: 'none',
      });
      const domains = async (uri: string) =>
        (await mustRun('virsh', ['-c', uri, 'list', '--all', '--name'])).trim().split('\n').sort();
      await bench.must('up');
      expect(await domains(one.uri)).toEqual(['class-student-01', 'class-student-03']);
      expect(await domains(two.uri)).toEqual(['class-student-02', 'class-student-04']);
      expect(await bench.must('up')).toContain('nothing to do');
      const boots = async (...seats: string[]) => {
        const { started } = await bench.json<Started>('start', 'lab.yaml', ...seats, '--watch');
        return started.map(({ seat, lines }) => `${seat} ${/boots=\d+/.exec(lines.join())?.[0]}`).sort();
      };
      expect(await boots()).toEqual([1, 2, 3, 4].map((n) => `student-0${n} boots=1`));
      await bench.must('reset', 'student-02', 'student-03');
      expect(await boots()).toEqual([2, 1, 1, 2].map((n, i) => `student-0${i + 1} boots=${n}`));
      const hosts = (await bench.json<Status>('status')).seats.map(({ host, state }) => `${host} ${state}`);
      expect(hosts).toEqual(['left off', 'right off', 'left off', 'right off']);

      await two[Symbol.asyncDispose]();
      stopped = true;
      const status = await bench.run('status');
      expect([status.code, status.err]).toEqual([0, expect.stringContaining('the host right is not there')]);
      expect((await bench.json<Status>('status')).seats.map(({ state }) => state)).toEqual([
        ...['off', 'unknown', 'off', 'unknown'],
      ]);
      await bench.must('reset', 'student-01');
      expect(await boots('student-01', 'student-03')).toEqual(['student-01 boots=1', 'student-03 boots=2']);
      // Nobody knows whether it runs: it is left alone.
      expect((await bench.run('reset', 'student-02')).err).toContain('in use: student-02');
      expect((await bench.run('start', 'student-04')).code).not.toBe(0);
      for (const n of [1, 2, 3, 4]) await qemuCheck(bench.path(`class/student-0${n}.qcow2`));
    } finally {
      if (!stopped) await two[Symbol.asyncDispose]();
    }
  }, 300_000);
});
