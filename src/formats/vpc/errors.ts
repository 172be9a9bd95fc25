import { DiskError } from '../../errors.ts';

type Detail = Readonly<Record<string, string | number | boolean | undefined>>;

/** A header or table that cannot be true. The message is QEMU's sentence for it where it has one. */
export function corrupt(path: string, field: string, message: string, offset?: number): DiskError {
  return new DiskError('corrupt', message, { path, offset, field, detail: { errno: 'EINVAL' } });
}

export function unsupported(path: string, field: string, message: string, detail: Detail = {}): DiskError {
  return new DiskError('unsupported', message, { path, field, detail });
}
