import type { CliContext } from '../cli/context.ts';
import { DiskError, type DiskErrorCode, firstError, isDiskError } from '../errors.ts';
import { corruptDependentsFlag } from '../platform/dependents.ts';
import { asSystemError, codeOfErrno, errnoOf, strerror } from '../platform/errno.ts';

/** What to do about errors that do not say it themselves. */
const fixes: Readonly<Partial<Record<DiskErrorCode, string>>> = {
  denied: 'you may not do that with this file: ask its owner, or run as a user who may',
  'out-of-space': 'make room on that file system, and run the command again',
  locked: "a running guest or another program has it open: shut that down first ('cowherd stop')",
  'read-only': 'the file system or the image cannot be written',
};

/** An error for people: one sentence, and below it what to do. */
export function describeError(thrown: unknown, context: CliContext): string {
  const error = inWords(firstError(thrown), context);
  // Ctrl-C is no fault of anybody's.
  if (context.signal.aborted && error === context.signal.reason) {
    return `${context.program}: ${error instanceof Error ? error.message : 'stopped'}`;
  }
  if (!isDiskError(error)) {
    const message = error instanceof Error ? error.message : String(error);
    return `${context.program}: ${message}\nThis is a fault of the program: please report it (COWHERD_DEBUG=1 shows more).`;
  }
  const { report } = error.detail;
  if (typeof report === 'string') return report;
  const fix = fixOf(error);
  const lines = fix === undefined ? [] : fix.split('\n').map((line) => `  ${line}`);
  return [`${context.program}: ${withoutFlag(wholeMessage(error))}`, ...lines]
    .map(withoutControls)
    .join('\n');
}

/** What the system refused, and nobody put into words on the way, is no fault of the program. */
function inWords(error: unknown, context: CliContext): unknown {
  if (isDiskError(error) || !(error instanceof Error)) return error;
  const { path, dest } = error as NodeJS.ErrnoException & { readonly dest?: string };
  const place = dest ?? path;
  if (place !== undefined) return asSystemError(error, 'use', place);
  const name = errnoOf(error);
  if (name === undefined) return error;
  if (name === 'ENOSPC' || name === 'EDQUOT')
    return asSystemError(error, 'write what is needed below', context.cwd);
  // Node tells of a call on an open file what it was, and not on which.
  const { syscall } = error as NodeJS.ErrnoException;
  if (syscall === undefined) return error;
  return new DiskError(codeOfErrno(name), `The system refused '${syscall}': ${strerror(name)}`, {
    cause: error,
  });
}

/** A line in which names of files and images (anybody can choose those) cannot command the terminal. */
export function withoutControls(line: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
  return line.replace(/[\x00-\x1f\x7f-\x9f]|\p{Surrogate}/gu, '?');
}

/** The error's sentence with those of what caused it. */
export function wholeMessage(error: DiskError): string {
  const { cause } = error;
  if (!isDiskError(cause) || error.message.includes(cause.message)) return error.message;
  return `${error.message}: ${wholeMessage(cause)}`;
}

/** A sentence without the advice to take a flag that the programs for single images have, and `cowherd` has not. */
function withoutFlag(message: string): string {
  const at = message.indexOf(`. ${corruptDependentsFlag} `);
  return at < 0 ? message : message.slice(0, at);
}

/** What to do about an error; undefined where nobody knows. */
export function fixOf(error: DiskError): string | undefined {
  const { fix, flag } = error.detail;
  if (flag === corruptDependentsFlag)
    return `name another place, or another image; 'cowherd who-uses FILE' tells what stands on one`;
  return typeof fix === 'string' ? fix : fixes[error.code];
}
