import { writeFileSync } from 'node:fs';
import { DiskError } from '../../errors.ts';
import { readJsonFile, readSmallText } from '../../platform/json-file.ts';
import { argumentsOf, markOf, type ProcessMark } from './process-mark.ts';
import type { SeatFiles } from './runtime-dir.ts';

/** What is written down when a guest has been started. */
export interface RunRecord {
  readonly process: ProcessMark;
  readonly seat: string;
  readonly lab: string;
  readonly uuid: string;
  readonly disk: string;
  readonly accelerator: string;
  /** Milliseconds since the epoch. */
  readonly startedAt: number;
  /** Bytes that the serial log held before this boot. */
  readonly consoleStart: number;
}

const maxBytes = 64 * 1024;

/** The record of the last start; undefined when there is none that can be understood. */
export function readRunRecord(files: SeatFiles): RunRecord | undefined {
  let value: Record<string, unknown> | undefined;
  try {
    value = readJsonFile(files.record, maxBytes);
  } catch (error) {
    // A record that a crash cut short tells nothing; the pid file and the monitor still do.
    if (error instanceof DiskError && error.code === 'corrupt') return undefined;
    throw error;
  }
  const process = value?.process as Partial<ProcessMark> | undefined;
  const sound =
    typeof process?.pid === 'number' &&
    typeof process.started === 'string' &&
    typeof value?.consoleStart === 'number';
  return sound ? (value as unknown as RunRecord) : undefined;
}

/** No fsync: a reboot ends the guest, and with it what the record is for. */
export function writeRunRecord(files: SeatFiles, record: RunRecord): void {
  writeFileSync(files.record, `${JSON.stringify(record)}\n`, { mode: 0o600 });
}

/** The number in QEMU's own pid file; undefined where there is none. */
export function pidIn(files: SeatFiles): number | undefined {
  try {
    const pid = Number.parseInt(readSmallText(files.pid, 64) ?? '', 10);
    return Number.isNaN(pid) ? undefined : pid;
  } catch {
    return undefined;
  }
}

/**
 * The seat's QEMU by its own pid file, for a start whose record was never written. It counts only when its
 * command line names this seat's monitor.
 */
export function processByPidFile(files: SeatFiles): ProcessMark | undefined {
  const pid = pidIn(files);
  const mark = pid === undefined ? undefined : markOf(pid);
  if (!mark) return undefined;
  const monitor = `path=${files.qmp.replaceAll(',', ',,')},`;
  return argumentsOf(mark.pid)?.some((argument) => argument.includes(monitor)) ? mark : undefined;
}
