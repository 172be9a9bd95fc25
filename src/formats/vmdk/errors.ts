import { DiskError } from '../../errors.ts';

type Detail = Readonly<Record<string, string | number | boolean | undefined>>;

/** Metadata that cannot be true. The message is QEMU's sentence where it has one. */
export function corrupt(path: string, field: string, message: string, detail: Detail = {}): DiskError {
  return new DiskError('corrupt', message, { path, field, detail: { errno: 'EIO', ...detail } });
}

/** What QEMU answers with EINVAL and no sentence of its own. */
export function invalid(path: string, field: string): DiskError {
  return corrupt(path, field, `Could not open '${path}': Invalid argument`, { errno: 'EINVAL' });
}

export function unsupported(path: string, field: string, message: string, detail: Detail = {}): DiskError {
  return new DiskError('unsupported', message, { path, field, detail: { errno: 'ENOTSUP', ...detail } });
}
