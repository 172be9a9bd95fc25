import { type DiskError, isDiskError } from '../errors.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';

/**
 * The one home of the words that cow-img speaks: they are qemu-img's, since scripts look for them. The engine
 * only says what happened (a DiskError's code, field and detail).
 */

/** `program: message` on the error stream. */
export function report(context: CliContext, message: string): void {
  context.stderr.write(`${context.program}: ${message}\n`);
}

/** `program: warning: message` on the error stream. */
export function warn(context: CliContext, message: string): void {
  report(context, `warning: ${message}`);
}

/** Text for the user of an error, and the lines that follow it. */
export interface Explanation {
  readonly text: string;
  readonly hint?: string;
}

/** QEMU's words for what went wrong when the file itself was opened, read or written. */
export function explain(error: unknown): Explanation {
  if (error instanceof CliFailure) return { text: error.message, hint: error.hint };
  if (isDiskError(error)) return explainDiskError(error);
  return { text: error instanceof Error ? error.message : String(error) };
}

/** The failure to open `filename`, as every verb words it. */
export function couldNotOpen(filename: string, error: unknown, exitCode = 1): CliFailure {
  const { text, hint } = explain(error);
  return new CliFailure(`Could not open '${filename}': ${text}`, { exitCode, hint, cause: error });
}

function explainDiskError(error: DiskError): Explanation {
  return { text: error.message };
}
