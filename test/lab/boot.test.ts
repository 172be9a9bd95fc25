import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowherd } from '../../src/lab/cowherd.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { testContext } from '../support/cli-context.ts';
import { have, openQemuIo } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const qemu = have('qemu-system-x86_64');

/** A master whose guest waits for ever: sti; hlt; jmp back. */
function makeIdleMaster(path: string): void {
  const sector = new Uint8Array(512);
  sector.set([0xfb, 0xf4, 0xeb, 0xfc]);
  sector.set([0x55, 0xaa], 510);
  const fd = openSync(path, 'r+');
  writeSync(fd, sector, 0, 512, 0);
  closeSync(fd);
}

async function demoBench(seats: unknown): Promise<LabBench> {
  const bench = await labBench();
  mkdirSync(bench.path('demo'));
  await makeDemoMaster(bench.path('demo/demo.raw'), { size: 8 * 1024 * 1024, payloadBytes: 0 });
  const values = {
    master: 'demo/demo.raw',
    seats,
    runner: 'qemu',
    guest: 'demo',
    memory: '16M',
    network: 'none',
  };
  bench.write('lab.yaml', values);
  return bench;
}

async function idleBench(): Promise<LabBench> {
  const bench = await labBench();
  makeIdleMaster(bench.path('masters/m.raw'));
  bench.write('lab.yaml', { runner: 'qemu', memory: '16M', network: 'none', seats: 3 });
  return bench;
}

const states = async (bench: LabBench) =>
  (await bench.json<{ seats: { state: string }[] }>('status')).seats.map((seat) => seat.state);

describe.skipIf(!qemu)('guests of a lab', () => {
  let runtime: string;
  beforeAll(() => {
    runtime = mkdtempSync(join(tmpdir(), 'cwh-'));
    process.env.COWHERD_RUNTIME_DIR = runtime;
  });
  afterAll(() => {
    delete process.env.COWHERD_RUNTIME_DIR;
    rmSync(runtime, { recursive: true, force: true });
  });

  it('have screens, and start says how to see one', async () => {
    await using bench = await idleBench();
    bench.write('lab.yaml', { runner: 'qemu', memory: '16M', network: 'none', seats: 2, graphics: 'vnc' });
    const said = await bench.must('up', '--start');
    try {
      const socket = /The screen of student-01: vncviewer (\/.*)/.exec(said)![1];
      // RFC 6143, 7.1.1: the server speaks first.
      const hello = await new Promise<string>((resolve, reject) => {
        const client = connect(socket).once('error', reject);
        client.once('data', (bytes) => {
          client.destroy();
          resolve(bytes.toString());
        });
      });
      expect(hello).toMatch(/^RFB 003\.\d{3}\n$/);
    } finally {
      await bench.must('stop', '--now');
    }
  });

  it('boot from their own disks, remember it, and forget it by a reset', async () => {
    await using bench = await demoBench(3);
    const first = await bench.must('up', '--start', '--watch');
    for (const n of [1, 2, 3]) expect(first).toContain(`cowherd seat=student-0${n} boots=1 master=demo`);
    expect(first).toMatch(/3 seats booted and switched off in/);
    expect(await bench.must('start', 'student-01..02', '--watch')).toMatch(
      /student-0[12] boots=2[\s\S]*student-0[12] boots=2/,
    );
    await bench.must('reset', 'student-02');
    const again = await bench.json<{ started: { seat: string; ok: boolean; lines: string[] }[] }>(
      'start',
      '--watch',
    );
    const said = Object.fromEntries(again.started.map((one) => [one.seat, one.lines.join()]));
    expect(said['student-01']).toContain('boots=3');
    expect(said['student-02']).toContain('boots=1');
    expect(said['student-03']).toContain('boots=2');
    expect(await bench.must('status', '--verify')).toContain('as it was (its whole content compared)');
    for (const n of [1, 2, 3]) await qemuCheck(bench.path(`class/student-0${n}.qcow2`));
  });

  it('refuse to be stamped when they are somebody else’s', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { guest: 'demo' });
    const { code, err } = await bench.run('up');
    expect(code).toBe(2);
    expect(err).toContain('is no disk of the demo guest');
  });

  it('run until they are stopped; their disks are safe meanwhile', async () => {
    await using bench = await idleBench();
    await bench.must('up');
    try {
      expect(await bench.must('start', 'student-01..02', '--parallel', '1')).toContain('2 seats started in');
      expect(await states(bench)).toEqual(['running', 'running', 'off']);
      expect(await bench.must('start', 'student-02..03')).toContain('1 seat running already: student-02');
      for (const verb of [['reset', 'all'], ['down']]) {
        const { code, err } = await bench.run(...verb);
        expect(code).toBe(1);
        expect(err).toContain(
          `3 seats in use: student-01..03\n  'cowherd ${verb[0]} --stop' stops them first`,
        );
      }
      expect(await bench.must('up')).toContain('nothing to do');
      await bench.must('reset', 'student-02', '--stop');
      expect(await states(bench)).toEqual(['running', 'off', 'running']);
      expect(await bench.must('stop', '--now')).toContain('2 seats stopped');
      expect(await bench.must('stop', '--now')).toContain('None of 3 seats was running');
      await bench.must('start', 'student-03');
    } finally {
      await bench.must('down', '--stop');
    }
  }, 120_000);

  it('are stopped by Ctrl-C when they were watched', async () => {
    await using bench = await idleBench();
    await bench.must('up');
    const interrupt = new AbortController();
    const context = testContext({ program: 'cowherd', cwd: bench.dir.path, signal: interrupt.signal });
    const ended = cowherd(['start', '--watch'], context);
    while (!(await states(bench)).includes('running'))
      await new Promise((resolve) => setTimeout(resolve, 50));
    interrupt.abort('SIGINT');
    expect(await ended).toBe(130);
    expect(context.err()).toContain('Starting was interrupted');
    expect(await states(bench)).toEqual(['off', 'off', 'off']);
  }, 120_000);
});

describe.skipIf(!have('qemu-io'))('a disk that another program has open', () => {
  it('is in use, and neither reset nor removed', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    {
      await using _other = await openQemuIo(['-f', 'qcow2', bench.path('class/student-02.qcow2')]);
      expect(await states(bench)).toEqual(['off', 'in use']);
      for (const verb of [['reset', 'all'], ['down']]) {
        expect(await bench.run(...verb)).toMatchObject({
          code: 1,
          err: expect.stringContaining('1 seat in use: student-02'),
        });
      }
      await bench.must('reset', 'student-01');
    }
    await bench.must('down');
  });
});
