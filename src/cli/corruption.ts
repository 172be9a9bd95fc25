import { type DiskError, isDiskError } from '../errors.ts';
import type { CliContext } from './context.ts';

/** Fields of a qcow2 image whose falsehood QEMU reports when guest data is first looked up. */
const lookedUp = new Set(['L2 table offset', 'L2 entry']);

/**
 * What QEMU's qcow2 prints, before the verb's own message, when a table of an image that is being read cannot be
 * true. Prints nothing for any other error.
 */
export function reportCorruption(context: CliContext, error: unknown): void {
  let found: unknown = error;
  while (isDiskError(found) && isDiskError(found.cause)) found = found.cause;
  if (!isDiskError(found, 'corrupt') || !(found.detail.marked || lookedUp.has(found.field ?? ''))) return;
  const { message, detail } = found as DiskError;
  const [fate, events] = detail.marked
    ? ['Marking image as corrupt', 'corruption']
    : ['Image is corrupt', 'non-fatal corruption'];
  context.stderr.write(`qcow2: ${fate}: ${message}; further ${events} events will be suppressed\n`);
}
