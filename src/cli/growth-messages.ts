import { isDiskError } from '../errors.ts';
import { strerror } from '../platform/errno.ts';

/** What the file store was about when it could not grow (`detail.step`), in QEMU's words. */
const steps: Readonly<Record<string, string>> = {
  resize: 'Could not resize file',
  preallocate: 'Could not preallocate new data',
  'write zeros': 'Could not write zeros for preallocation',
  flush: 'Could not flush file to disk',
};

/**
 * The host's refusal of space that an image of `format` asked for, in QEMU's words; undefined for an error that is
 * none.
 */
export function growthRefusal(error: unknown, format: string): string | undefined {
  if (!isDiskError(error) || error.detail.errno === undefined) return undefined;
  const whose = resizesItself(format) ? '' : 'Failed to resize underlying file: ';
  if (error.detail.step === 'device') return `${whose}${error.message}`;
  const reason = strerror(String(error.detail.errno));
  const step = steps[String(error.detail.step)];
  if (format === 'raw') return `${step ?? steps.resize}: ${reason}`;
  if (step !== undefined) return `${whose}${step}: ${reason}`;
  return error.code === 'out-of-space' && format !== 'luks'
    ? `Failed to grow the L1 table: ${reason}`
    : undefined;
}

/** Whether an image of that format is as long as its file, but for a header: the file's refusal is its own. */
export const resizesItself = (format: string): boolean => format === 'raw' || format === 'luks';
