import { type DiskError, isDiskError } from '../errors.ts';
import type { CliContext } from './context.ts';

/** Fields of a qcow2 image whose falsehood QEMU reports when guest data is first looked up. */
const lookedUp = new Set(['L2 table offset', 'L2 entry']);

/**
 * What QEMU's qcow2 prints, before the verb's own message, when a table of an image that is being read cannot be
 * true. Prints nothing for any other error.
 */
export function reportCorruption(context: CliContext, error: unknown): void {
  const found = rootOf(error);
  if (!isDiskError(found, 'corrupt') || !(found.detail.marked || lookedUp.has(found.field ?? ''))) return;
  const { message, detail } = found as DiskError;
  const [fate, events] = detail.marked
    ? ['Marking image as corrupt', 'corruption']
    : ['Image is corrupt', 'non-fatal corruption'];
  context.stderr.write(`qcow2: ${fate}: ${message}; further ${events} events will be suppressed\n`);
}

/** Whether the image that failed was marked as corrupt for what was found. */
export function isMarkedCorrupt(error: unknown): boolean {
  const found = rootOf(error);
  return isDiskError(found, 'corrupt') && found.detail.marked === true;
}

function rootOf(error: unknown): unknown {
  let found = error;
  while (isDiskError(found) && isDiskError(found.cause)) found = found.cause;
  return found;
}
