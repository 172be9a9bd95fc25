import { DiskError } from '../../errors.ts';

type Detail = Readonly<Record<string, string | number | boolean | undefined>>;

/** A structure that cannot be true. Where QEMU has no sentence for it, it says `Invalid argument` of the file. */
export function corrupt(path: string, field: string, offset?: number, message?: string): DiskError {
  return new DiskError('corrupt', message ?? `Could not open '${path}'`, {
    path,
    offset,
    field,
    detail: message === undefined ? { errno: 'EINVAL', wrapped: true } : { errno: 'EINVAL' },
  });
}

export function unsupported(path: string, field: string, message: string, detail: Detail = {}): DiskError {
  return new DiskError('unsupported', message, { path, field, detail });
}
