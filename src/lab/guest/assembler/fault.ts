import { DiskError } from '../../../errors.ts';

/** An error of the listing at `line` (from 1). */
export function asmError(line: number, message: string): DiskError {
  return new DiskError('bad-argument', `line ${line}: ${message}`, { field: 'listing', detail: { line } });
}
