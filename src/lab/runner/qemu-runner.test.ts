import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import {
  bootDisk,
  demoMaster,
  demoSeat,
  digestOf,
  endlessGuest,
  recordOn,
  seatOn,
} from '../../../test/support/seats.ts';
import { DiskError } from '../../errors.ts';
import { diskBuses, type Seat } from '../seats/seat.ts';
import { markOf } from './process-mark.ts';
import { QemuRunner } from './qemu-runner.ts';
import { type RunRecord, readRunRecord, writeRunRecord } from './run-record.ts';
import { type SeatFiles, seatFiles } from './runtime-dir.ts';

let folder: TempDir;
let runner: QemuRunner;
let seats: Seat[];

beforeEach(async () => {
  folder = await tempDir();
  runner = newRunner();
  seats = [];
});

afterEach(async () => {
  for (const seat of seats) await runner.stop(seat, { gracefulMs: 0 });
  await runner[Symbol.asyncDispose]();
  await folder.remove();
});

/** As another run of the tool would have it. */
function newRunner(): QemuRunner {
  return new QemuRunner({ accelerator: 'tcg', runtimeDir: folder.file('run') });
}

/** A seat that the test's end stops. */
function tracked<T extends Seat>(seat: T): T {
  seats.push(seat);
  return seat;
}

function endlessSeat(name = 'endless', more: Partial<Seat> = {}): Seat {
  return tracked(seatOn(folder, name, bootDisk(folder, name, endlessGuest), more));
}

function filesOf(seat: Seat): SeatFiles {
  return seatFiles(folder.file('run'), seat);
}

async function printed(seat: Seat, from = runner): Promise<string> {
  let text = '';
  for await (const piece of from.console(seat, { follow: true })) text += Buffer.from(piece).toString();
  return text;
}

async function failure(promise: Promise<unknown>): Promise<DiskError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(DiskError);
  return error as DiskError;
}

describe.skipIf(!have('qemu-system-x86_64') || !have('qemu-img'))('the qemu runner', () => {
  it('boots a seat from its overlay, and the guest counts its boots', async () => {
    const master = await demoMaster(folder);
    const digest = digestOf(master);
    const seat = tracked(await demoSeat(folder, 'student-07'));
    expect(await runner.state(seat)).toBe('off');
    for (const boots of [1, 2, 3]) {
      const began = Date.now();
      await runner.start(seat);
      expect(await runner.state(seat)).toBe('running');
      expect(await printed(seat)).toBe(`cowherd seat=student-07 boots=${boots} master=demo\r\n`);
      expect(await runner.waitOff(seat)).toBe('powered-off');
      // libvirt takes a guest that is gone within half a second for one that failed to start.
      expect(Date.now() - began).toBeGreaterThan(550);
      expect(await runner.state(seat)).toBe('off');
      expect(await recordOn(folder, seat)).toEqual({ seat: 'student-07', master: 'demo', boots });
    }
    expect(digestOf(master)).toBe(digest);
    expect(readFileSync(seat.serialLog, 'utf8').match(/boots=\d/g)).toEqual([
      'boots=1',
      'boots=2',
      'boots=3',
    ]);
  });

  it.each(diskBuses)('boots from a disk on %s, with everything else in the machine', async (bus) => {
    await demoMaster(folder);
    const cdrom = folder.file('a,b.iso');
    writeFileSync(cdrom, new Uint8Array(65536));
    const disk = { path: folder.file(`comma, "quote" = ü.qcow2`), format: 'qcow2', bus } as const;
    const more = { disk, cdrom, network: { kind: 'user' }, graphics: 'vnc', cpus: 2 } as const;
    const seat = tracked(await demoSeat(folder, 'full', { ...more, serialLog: folder.file('log, too') }));
    await runner.start(seat);
    expect(existsSync(filesOf(seat).vnc)).toBe(true);
    expect(await printed(seat)).toBe('cowherd seat=full boots=1 master=demo\r\n');
    expect(await runner.waitOff(seat)).toBe('powered-off');
  });

  it('says so when the record on the disk is none', async () => {
    const path = await demoMaster(folder);
    await mustRun('qemu-io', ['-c', 'write -P 0x41 65536 512', path]);
    const seat = tracked(seatOn(folder, 'broken', { path }));
    await runner.start(seat);
    expect(await printed(seat)).toBe('cowherd seat error=record\r\n');
    expect(await runner.waitOff(seat)).toBe('powered-off');
  });

  it('finds, shows and stops a guest that an earlier run of the tool started', async () => {
    const seat = endlessSeat();
    await runner.start(seat);
    await using later = newRunner();
    expect(await later.state(seat)).toBe('running');
    await expect
      .poll(async () => {
        let text = '';
        for await (const piece of later.console(seat)) text += Buffer.from(piece).toString();
        return text;
      })
      .toBe('!\n');
    expect(await failure(later.start(seat))).toMatchObject({ code: 'in-use' });
    expect(await failure(later.undefine(seat))).toMatchObject({ code: 'in-use' });
    expect(await failure(later.waitOff(seat, { timeoutMs: 100 }))).toMatchObject({
      code: 'aborted',
      field: 'timeout',
    });
    const { pid } = readRunRecord(filesOf(seat))!.process;
    const began = Date.now();
    await later.stop(seat, { gracefulMs: 300 });
    expect(Date.now() - began).toBeGreaterThan(290);
    expect(markOf(pid)).toBeUndefined();
    expect(await later.state(seat)).toBe('off');
    expect(await later.waitOff(seat)).toBe('powered-off');
    await later.undefine(seat);
    expect(existsSync(filesOf(seat).folder)).toBe(false);
  });

  it('finds a guest whose record was never written', async () => {
    const seat = endlessSeat();
    await runner.start(seat);
    writeFileSync(filesOf(seat).record, '{"process": {"pi');
    await using later = newRunner();
    expect(await later.state(seat)).toBe('running');
    await later.stop(seat, { gracefulMs: 0 });
    expect(await later.state(seat)).toBe('off');
  });

  it('takes a guest that shows up twice for one', async () => {
    const seat = endlessSeat();
    const results = await Promise.allSettled([runner.start(seat), newRunner().start(seat)]);
    const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(failures).toEqual([expect.objectContaining({ code: 'in-use' })]);
    expect(await runner.state(seat)).toBe('running');
  });

  it('tells paused and crashed guests from those that are off', async () => {
    const seat = endlessSeat();
    await runner.start(seat);
    const { pid } = readRunRecord(filesOf(seat))!.process;
    await hmp(filesOf(seat).qmp, 'stop');
    expect(await runner.state(seat)).toBe('paused');
    process.kill(pid, 'SIGKILL');
    expect(await runner.waitOff(seat)).toBe('crashed');
    expect(await runner.state(seat)).toBe('crashed');
    expect(await newRunner().waitOff(seat)).toBe('crashed');
    await runner.start(seat);
    expect(await runner.state(seat)).toBe('running');
    process.kill(readRunRecord(filesOf(seat))!.process.pid, 'SIGKILL');
    await runner.waitOff(seat);
    await runner.stop(seat);
    expect(await runner.state(seat)).toBe('off');
  });

  it("tells an end that the guest has made from another's: a signal, a word to the monitor", async () => {
    const seat = endlessSeat();
    const ends: readonly (() => void | Promise<void>)[] = [
      () => void process.kill(readRunRecord(filesOf(seat))!.process.pid, 'SIGTERM'),
      () => hmp(filesOf(seat).qmp, 'quit'),
      () => runner.stop(seat, { gracefulMs: 0 }),
    ];
    for (const end of ends) {
      await runner.start(seat);
      const waiting = runner.waitOff(seat);
      await end();
      expect(await waiting).toBe('cut-off');
      expect(await runner.state(seat)).toBe('off');
    }
  });

  it('does not cut the power of a guest that is shutting down when told to stop waiting', async () => {
    const seat = endlessSeat();
    await runner.start(seat);
    const stop = runner.stop(seat, { gracefulMs: 20_000, signal: AbortSignal.timeout(150) });
    expect(await failure(stop)).toMatchObject({ code: 'aborted' });
    expect(await runner.state(seat)).toBe('running');
  });

  it('stops a guest whose monitor somebody else holds', async () => {
    const seat = endlessSeat();
    await runner.start(seat);
    const other = connect(filesOf(seat).qmp);
    await new Promise((resolve) => other.once('data', resolve));
    expect(await runner.state(seat)).toBe('running');
    await runner.stop(seat, { gracefulMs: 100 });
    other.destroy();
    expect(await runner.state(seat)).toBe('off');
  });

  it("gives QEMU's reason when a seat cannot start", async () => {
    const missing = seatOn(folder, 'missing');
    const error = await failure(runner.start(missing));
    expect(error).toMatchObject({ code: 'io', path: missing.disk.path });
    expect(error.message).toContain("Seat 'missing' cannot start: ");
    expect(error.message).toContain('No such file or directory');
    expect(await runner.state(missing)).toBe('off');
  });

  it('says that a disk is in use by another program', async () => {
    const other = endlessSeat();
    await runner.start(other);
    const seat = seatOn(folder, 'late', other.disk);
    expect(await failure(runner.start(seat))).toMatchObject({ code: 'locked', path: seat.disk.path });
    expect(await runner.state(seat)).toBe('off');
  });

  it('leaves nothing running when it is told to stop while starting', async () => {
    const seat = endlessSeat();
    let error: unknown;
    // The guest may be there before anybody has seen the file of its start.
    for (let attempt = 0; attempt < 10 && error === undefined; attempt++) {
      if (attempt > 0) await runner.stop(seat, { gracefulMs: 0 });
      const controller = new AbortController();
      const ended = runner.start(seat, { signal: controller.signal }).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      await expect.poll(() => existsSync(filesOf(seat).pid), { interval: 1 }).toBe(true);
      controller.abort();
      error = await ended;
    }
    expect(error).toMatchObject({ code: 'aborted' });
    expect(await runner.state(seat)).toBe('off');
    await runner.start(seat);
    expect(await runner.state(seat)).toBe('running');
  });

  it('is off after a start that was stopped before QEMU had written its number', async () => {
    const seat = endlessSeat();
    const qemu = folder.file('qemu');
    const script = `#!/bin/sh\nwhile [ "$1" != -pidfile ]; do shift; done\n: > "$2"\nexec sleep 60\n`;
    writeFileSync(qemu, script, { mode: 0o755 });
    const slow = new QemuRunner({ accelerator: 'tcg', runtimeDir: folder.file('run'), qemu });
    const controller = new AbortController();
    const start = slow.start(seat, { signal: controller.signal });
    await expect.poll(() => existsSync(filesOf(seat).pid), { interval: 1 }).toBe(true);
    controller.abort();
    expect(await failure(start)).toMatchObject({ code: 'aborted' });
    expect(await runner.state(seat)).toBe('off');
  });

  it('refuses a libvirt network and a folder too long for a socket', async () => {
    const seat = seatOn(folder, 'net', {}, { network: { kind: 'network', name: 'default' } });
    expect(await failure(runner.define(seat))).toMatchObject({ code: 'unsupported', field: 'network' });
    expect(await failure(runner.start(seat))).toMatchObject({ code: 'unsupported', field: 'network' });
    const far = new QemuRunner({ accelerator: 'tcg', runtimeDir: `/tmp/${'x'.repeat(90)}` });
    expect(await failure(far.start(endlessSeat()))).toMatchObject({ code: 'bad-argument' });
  });
});

describe("processes that are not the seat's", () => {
  let bystander: ChildProcess;

  beforeEach(() => {
    bystander = spawn('sleep', ['60']);
  });
  afterEach(() => bystander.kill('SIGKILL'));

  function record(seat: Seat, started: string): RunRecord {
    const { lab, name, uuid, disk } = seat;
    const process = { pid: bystander.pid!, started };
    const rest = { accelerator: 'tcg', startedAt: 0, consoleStart: 0 };
    return { process, seat: name, lab, uuid, disk: disk.path, ...rest };
  }

  it('are never signalled, nor taken for it', async () => {
    const seat = seatOn(folder, 'ghost');
    const files = filesOf(seat);
    mkdirSync(files.folder, { recursive: true });
    // The number of a QEMU that is long gone now belongs to another program.
    writeRunRecord(files, record(seat, 'another time'));
    writeFileSync(files.pid, `${bystander.pid}\n`);
    expect(await runner.state(seat)).toBe('crashed');
    await runner.stop(seat, { gracefulMs: 0 });
    expect(await runner.state(seat)).toBe('off');
    expect(bystander.exitCode ?? bystander.signalCode).toBeNull();
    expect(markOf(bystander.pid!)).toBeDefined();
  });

  it('are told from it by their start time alone', async () => {
    const seat = seatOn(folder, 'ghost');
    const files = filesOf(seat);
    mkdirSync(files.folder, { recursive: true });
    const mark = markOf(bystander.pid!)!;
    expect(mark.started).not.toBe(markOf(process.pid)!.started);
    writeRunRecord(files, record(seat, mark.started));
    await runner.stop(seat, { gracefulMs: 0 });
    await expect.poll(() => bystander.signalCode).toBe('SIGKILL');
  });

  it('are not looked for in a folder that others may write to', async () => {
    const open = folder.file('open');
    mkdirSync(open, { mode: 0o777 });
    const { chmodSync } = await import('node:fs');
    chmodSync(open, 0o777);
    const careless = new QemuRunner({ qemu: '/bin/false', accelerator: 'tcg', runtimeDir: open });
    expect(await failure(careless.start(seatOn(folder, 'any')))).toMatchObject({
      code: 'denied',
      path: open,
    });
    expect(existsSync(join(open, 'run.json'))).toBe(false);
  });
});

/** Says one command to a monitor, as somebody else would. */
async function hmp(path: string, command: string): Promise<void> {
  const socket = connect(path);
  socket.write(`{"execute": "qmp_capabilities"}{"execute": "${command}"}`);
  let text = '';
  for await (const chunk of socket) {
    text += chunk;
    if ((text.match(/"return"/g) ?? []).length === 2) break;
  }
  socket.destroy();
}
