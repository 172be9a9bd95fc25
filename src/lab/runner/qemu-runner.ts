import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { DiskError } from '../../errors.ts';
import { createPrivateFolder } from '../../platform/scratch-folder.ts';
import type { Seat } from '../seats/seat.ts';
import { type Accelerator, chooseAccelerator } from './accelerator.ts';
import { followLog } from './console-log.ts';
import { isAlive, isSame, type ProcessMark, signalProcess, waitUntilGone } from './process-mark.ts';
import { findQemu, qemuArguments, qemuMissing } from './qemu-command.ts';
import { alreadyRunning, beginSerialLog, eventsSocket, type StartedQemu, startQemu } from './qemu-start.ts';
import { processByPidFile, readRunRecord, writeRunRecord } from './run-record.ts';
import {
  type ConsoleOptions,
  noDomains,
  type Runner,
  type SeatEnd,
  type SeatState,
  type StartOptions,
  type StopOptions,
  type WaitOptions,
} from './runner.ts';
import { makeRuntimeDir, runtimeDir, type SeatFiles, seatFiles } from './runtime-dir.ts';
import { askState, tellMonitor } from './seat-monitor.ts';
import { layOutPassphrase } from './secret-file.ts';

export interface QemuRunnerOptions {
  /** The program; default: `findQemu()`. */
  readonly qemu?: string;
  /** Default: what `chooseAccelerator` finds to work, asked once. */
  readonly accelerator?: Accelerator;
  /** Folder of sockets and pid files; default: `runtimeDir()`. */
  readonly runtimeDir?: string;
}

const quitLimitMs = 5_000;
const killLimitMs = 5_000;
/** A monitor serves one client at a time: when another has it, its answer is not worth a long wait. */
const askLimitMs = 1_500;

/** Stands in the record of a guest that was gone before its process could be looked at. */
const noProcess: ProcessMark = { pid: 0, started: '' };

/**
 * Guests as child processes that outlive the tool: each has its own session, its monitor on a unix socket, and
 * a record by which a later run finds it again. A process is only ever signalled after its start time has been
 * compared, so that a number given to another program meanwhile harms nobody.
 */
export class QemuRunner implements Runner {
  readonly name = 'qemu';
  readonly boots = true;
  readonly #base: string;
  readonly #qemu: string | undefined;
  #accelerator: Promise<Accelerator> | undefined;
  /** The last start of each seat by this very process, by folder. */
  readonly #started = new Map<string, StartedQemu>();

  constructor(options: QemuRunnerOptions = {}) {
    this.#base = options.runtimeDir ?? runtimeDir();
    this.#qemu = options.qemu ?? findQemu();
    if (options.accelerator) this.#accelerator = Promise.resolve(options.accelerator);
  }

  async unavailable(): Promise<string | undefined> {
    return this.#qemu === undefined ? qemuMissing : undefined;
  }

  async domainType(): Promise<undefined> {
    // Definitions are for others to read.
  }

  async domainXml(name: string): Promise<string> {
    throw noDomains(name);
  }

  async pending(): Promise<readonly Seat[]> {
    return [];
  }

  /** Nothing to make beforehand; throws what would keep `start` from working at all. */
  async define(seat: Seat): Promise<void> {
    qemuArguments(seat, seatFiles(this.#base, seat), 'tcg');
  }

  async undefine(seat: Seat): Promise<void> {
    const files = seatFiles(this.#base, seat);
    if (findProcess(files)) {
      throw new DiskError('in-use', `Seat '${seat.name}' is running: stop it first`, {
        path: seat.disk.path,
      });
    }
    rmSync(files.folder, { recursive: true, force: true });
    this.#started.delete(files.folder);
  }

  async renew(_seat: Seat): Promise<void> {
    // A guest's memory goes with its process, and there is nothing else.
  }

  async start(seat: Seat, options: StartOptions = {}): Promise<void> {
    const { signal } = options;
    const files = seatFiles(this.#base, seat);
    if (findProcess(files)) throw alreadyRunning(seat);
    if (this.#qemu === undefined) throw new DiskError('not-found', qemuMissing);
    const accelerator = await this.#chosenAccelerator(this.#qemu, signal);
    makeRuntimeDir(this.#base);
    // Of a run that is killed it would stay until the seat's next start; this one is swept by the next command.
    using secrets = createPrivateFolder('secret', this.#base);
    const secret = secrets.file('secret');
    const args = qemuArguments(seat, { ...files, secret, events: eventsSocket }, accelerator);
    mkdirSync(files.folder, { recursive: true, mode: 0o700 });
    const consoleStart = beginSerialLog(seat.serialLog);
    const startedAt = Date.now();
    using _secret = await layOutPassphrase(seat, secret);
    const started = await startQemu(this.#qemu, args, seat, files, signal);
    this.#started.set(files.folder, started);
    const { lab, name, uuid, disk } = seat;
    writeRunRecord(files, {
      ...{ process: started.mark ?? noProcess, seat: name, lab, uuid, disk: disk.path, accelerator },
      ...{ startedAt, consoleStart },
    });
  }

  async stop(seat: Seat, options: StopOptions = {}): Promise<void> {
    const files = seatFiles(this.#base, seat);
    const mark = findProcess(files);
    if (mark) {
      const gracefulMs = options.gracefulMs ?? 10_000;
      if (gracefulMs > 0 && (await tellMonitor(seat, files, 'system_powerdown', askLimitMs))) {
        await waitUntilGone(mark, gracefulMs, options.signal);
        if (options.signal?.aborted && isAlive(mark)) {
          throw new DiskError('aborted', `Stopped while seat '${seat.name}' was shutting down`, {
            path: seat.disk.path,
          });
        }
      }
      if (isAlive(mark) && (await tellMonitor(seat, files, 'quit', askLimitMs))) {
        await waitUntilGone(mark, quitLimitMs);
      }
      signalProcess(mark, 'SIGKILL');
      if (!(await waitUntilGone(mark, killLimitMs))) {
        throw new DiskError(
          'io',
          `Seat '${seat.name}' (process ${mark.pid}) does not end, even when killed`,
          {
            path: seat.disk.path,
            detail: { pid: mark.pid },
          },
        );
      }
    }
    // Left behind by a crash or by the kill: the seat is off on purpose from now on.
    rmSync(files.pid, { force: true });
  }

  async state(seat: Seat): Promise<SeatState> {
    const files = seatFiles(this.#base, seat);
    if (!existsSync(files.folder)) return 'off';
    const mark = findProcess(files);
    if (mark) {
      try {
        return await askState(seat, files, askLimitMs);
      } catch {
        // It has ended since; or another client has its monitor, and then it does run.
        if (isAlive(mark)) return 'running';
      }
    }
    return existsSync(files.pid) ? 'crashed' : 'off';
  }

  async waitOff(seat: Seat, options: WaitOptions = {}): Promise<SeatEnd> {
    const files = seatFiles(this.#base, seat);
    const mark = findProcess(files);
    if (mark && !(await waitUntilGone(mark, options.timeoutMs, options.signal))) {
      throw new DiskError(
        'aborted',
        options.signal?.aborted
          ? `Stopped while waiting for seat '${seat.name}'`
          : `Seat '${seat.name}' is still running after ${options.timeoutMs} ms`,
        { path: seat.disk.path, ...(options.signal?.aborted ? {} : { field: 'timeout' }) },
      );
    }
    const last = mark ?? readRunRecord(files)?.process;
    const own = this.#started.get(files.folder);
    if (own && (!last || isSame(own.mark, last))) return own.ended();
    return existsSync(files.pid) ? 'crashed' : 'powered-off';
  }

  console(seat: Seat, options: ConsoleOptions = {}): AsyncIterable<Uint8Array> {
    const files = seatFiles(this.#base, seat);
    return followLog(seat.serialLog, {
      from: readRunRecord(files)?.consoleStart ?? 0,
      more: options.follow ? async () => findProcess(files) !== undefined : undefined,
      signal: options.signal,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#started.clear();
  }

  #chosenAccelerator(qemu: string, signal: AbortSignal | undefined): Promise<Accelerator> {
    this.#accelerator ??= chooseAccelerator({ qemu, signal }).then(
      ({ accelerator }) => accelerator,
      (error) => {
        this.#accelerator = undefined;
        throw error;
      },
    );
    return this.#accelerator;
  }
}

/** A seat's live QEMU, if it has one, whoever started it. */
function findProcess(files: SeatFiles): ProcessMark | undefined {
  const record = readRunRecord(files);
  if (record && isAlive(record.process)) return record.process;
  return processByPidFile(files);
}
