import { maxOffset } from '../bytes/numbers.ts';
import { CliFailure } from './failure.ts';
import type { CreationOptions } from './options.ts';

/** QEMU's largest image: 2^63 less one gigabyte, in whole sectors. */
const largest = 9223372035781033984n;

/**
 * Refuses a new image past 2^53 - 1 bytes, which no `number` holds, in the words that qemu-img has for the size.
 * Throws CliFailure.
 */
export function refuseOversize(format: string, size: bigint, options: CreationOptions): void {
  if (size <= BigInt(maxOffset)) return;
  const whole = ((size + 511n) / 512n) * 512n;
  const negative = whole >= 1n << 63n;
  if (format === 'raw' && negative) throw new CliFailure('Could not resize file: Invalid argument');
  if (format === 'qcow2' && negative)
    throw new CliFailure('Could not resize image: Image size cannot be negative');
  if (format === 'qcow2' && whole > largest) {
    throw new CliFailure(`Could not resize image: offset(${whole}) exceeds maximum(${largest})`);
  }
  throw tooLarge(format, options);
}

/** QEMU's refusal of a size that the format or the host's file system cannot hold. */
export function tooLarge(format: string, options: CreationOptions): CliFailure {
  const clusters = options.numbers.get('cluster_size') ?? 65536n;
  const advice = format === 'qcow2' && clusters < 2097152n ? ' (try using a larger cluster size)' : '';
  return new CliFailure(`The image size is too large for file format '${format}'${advice}`);
}
