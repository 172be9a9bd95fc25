import { type DiskError, firstError, isDiskError } from '../errors.ts';
import type { FormatDriver } from '../formats/driver.ts';
import { findFormat } from '../formats/index.ts';
import { isAbsentProtocol, nodeDrivers } from '../image/nodes/drivers/index.ts';
import { protocolOf } from '../image/reference.ts';
import { strerror } from '../platform/errno.ts';
import { SignalReceived } from '../platform/signals.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';

/*
 * The one home of the words that cow-img speaks: they are qemu-img's, since scripts look for them. The engine
 * only says what happened (a DiskError's code, field and detail). Where the engine's own sentence is already the
 * one that users of QEMU know (the formats' headers), it is passed on.
 */

/** `program: message` on the error stream. */
export function report(context: CliContext, message: string): void {
  context.stderr.write(`${context.program}: ${message}\n`);
}

/** `program: warning: message` on the error stream. */
export function warn(context: CliContext, message: string): void {
  report(context, `warning: ${message}`);
}

/** QEMU's warning at opening a raw image for writing whose format nobody gave. */
export function warnOfProbedRaw(context: CliContext, filename: string): void {
  context.stderr.write(
    `WARNING: Image format was not specified for '${filename}' and probing guessed raw.\n` +
      '         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n' +
      "         Specify the 'raw' format explicitly to remove the restrictions.\n",
  );
}

/** Text for the user of an error, and what follows it without the program's name. */
export interface Explanation {
  readonly text: string;
  readonly hint?: string;
}

/** What went wrong, in QEMU's words. */
export function explain(thrown: unknown): Explanation {
  const error = firstError(thrown);
  if (error instanceof CliFailure) return { text: error.message, hint: error.hint };
  if (isDiskError(error)) return explainDiskError(error);
  return { text: error instanceof Error ? error.message : String(error) };
}

/** Ctrl-C, or what came of it, is no failure of an image. */
export function isStop(error: unknown): boolean {
  return error instanceof SignalReceived || isDiskError(error, 'aborted');
}

/** The failure to open `filename`, as every verb words it. */
export function couldNotOpen(filename: string, error: unknown, exitCode = 1): unknown {
  if (isStop(error)) return error;
  const { text, hint } = explain(error);
  return new CliFailure(`Could not open '${filename}': ${text}`, { exitCode, hint, cause: error });
}

function explainDiskError(error: DiskError): Explanation {
  const { detail, field, path } = error;
  if (detail.role === 'backing' && isDiskError(error.cause)) {
    const { text, hint } = explainDiskError(error.cause);
    if (isLoop(error)) return { text, hint };
    return { text: `${'Could not open backing file: '.repeat(Number(detail.depth ?? 1))}${text}`, hint };
  }
  if (error.code === 'locked') return explainLock(error);
  if (field === 'protocol' && detail.protocol !== undefined) {
    const { protocol, known } = detail;
    return {
      text: known ? `The protocol '${protocol}' is not supported yet` : `Unknown protocol '${protocol}'`,
    };
  }
  if (field === 'driver' && detail.driver !== undefined) {
    const { driver, known } = detail;
    return { text: known ? `The driver '${driver}' is not supported` : `Unknown driver '${driver}'` };
  }
  if (field === 'format' && detail.format !== undefined) {
    return { text: unknownFormat('Unknown driver', String(detail.format)) };
  }
  if (typeof detail.hint === 'string') return { text: error.message, hint: detail.hint };
  if (detail.expects !== undefined)
    return { text: error.message, hint: expectations[String(detail.expects)] };
  if (detail.wrapped) return { text: `${error.message}: ${strerror(String(detail.errno))}` };
  if (field === 'backing_fmt' && detail.detected !== undefined) {
    return { text: error.message, hint: `Detected format of ${detail.detected}.` };
  }
  if (error.field === 'extra_data_size') {
    return {
      text: error.message,
      hint: 'You can force-remove this extra metadata with qemu-img check -r all\n',
    };
  }
  if (field === 'preallocation' && detail.value === 'metadata') {
    return { text: 'Unsupported preallocation mode: metadata' };
  }
  if (isLoop(error)) return { text: `Backing file '${path}' creates an infinite loop.` };
  if (detail.kind === 'a directory') {
    if (detail.errno === undefined) return { text: `'file' driver requires '${path}' to be a regular file` };
    return { text: `Could not open '${path}': ${strerror(String(detail.errno))}` };
  }
  return { text: error.message };
}

/** What a value must look like, after the sentence that it does not. */
const expectations: Readonly<Record<string, string>> = {
  qcow2: "Try the 'qcow2' driver instead.\n",
  size:
    'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
    'and exabytes, respectively.\n',
  identifier: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n",
};

function isLoop({ field, detail }: DiskError): boolean {
  return field === 'backing chain' && detail.loop === true;
}

function explainLock(error: DiskError): Explanation {
  const { permission, shared } = error.detail;
  if (permission === undefined) return { text: error.message };
  return {
    text: `Failed to get ${shared ? 'shared ' : ''}"${permission}" lock`,
    hint: `Is another process using the image [${error.path}]?\n`,
  };
}

/** Formats and protocols that QEMU 7.2 has: a name among them is no slip. */
const knownToQemu = new Set(
  (
    'blkdebug blklogwrites blkverify bochs cloop compress copy-before-write copy-on-read dmg file ftp ftps gluster ' +
    'host_cdrom host_device http https iscsi iser json luks nbd nfs null-aio null-co nvme parallels preallocate ' +
    'qcow qcow2 qed quorum raw rbd replication snapshot-access ssh throttle vdi vhdx vmdk vpc vvfat'
  ).split(' '),
);

export function isKnownToQemu(format: string): boolean {
  return knownToQemu.has(format);
}

/** For a format that we cannot use: `unknown` ('Unknown driver') and the name in quotes, or that it is not built yet. */
function unknownFormat(unknown: string, format: string): string {
  return knownToQemu.has(format) ? `The format '${format}' is not supported yet` : `${unknown} '${format}'`;
}

/**
 * The driver that makes images of a format as a command line names it. `file` is what a raw image lies in, and can be
 * named as well. Throws CliFailure where there is none, or its images can only be read.
 */
export function creatableFormat(name: string): FormatDriver {
  const driver = findFormat(name === 'file' ? 'raw' : name);
  if (!driver) throw new CliFailure(unknownFormat('Unknown file format', name));
  assertCreatable(driver);
  return driver;
}

/** Throws CliFailure for a format whose images can only be read. */
export function assertCreatable({ name, create }: FormatDriver): void {
  if (!create) throw new CliFailure(`Format driver '${name}' does not support image creation`);
}

/** The same for the protocol that the name of a new image begins with: nothing is created by protocol here. */
export function unknownProtocol(filename: string): string {
  const protocol = protocolOf(filename) ?? '';
  if (isAbsentProtocol(protocol)) return `The protocol '${protocol}' is not supported yet`;
  return nodeDrivers.some(({ prefixes }) => prefixes?.includes(protocol))
    ? `Protocol driver '${protocol}' does not support image creation`
    : `Unknown protocol '${protocol}'`;
}
