import { DiskError } from '../../errors.ts';

type Detail = Readonly<Record<string, string | number | boolean | undefined>>;

/**
 * Metadata that cannot be true. The message is QEMU's sentence for it where it has one; whoever only reads
 * guest data gets EIO from QEMU, hence the errno.
 */
export function corrupt(
  path: string,
  field: string,
  message: string,
  offset?: number,
  detail: Detail = {},
): DiskError {
  return new DiskError('corrupt', message, { path, offset, field, detail: { errno: 'EIO', ...detail } });
}

export function unsupported(path: string, field: string, message: string, detail: Detail = {}): DiskError {
  return new DiskError('unsupported', message, { path, field, detail });
}

/** A number as QEMU prints it with `%#x`. */
export function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}
