import { DiskError } from '../errors.ts';
import type { ByteSource } from '../storage/store.ts';

/** For an image that is to be opened for writing, of a format that is only read. */
export function readOnly(format: string, source: ByteSource): DiskError {
  return new DiskError('read-only', `Images in ${format} format can only be read`, {
    path: source.name,
    field: 'writable',
    detail: { errno: 'EACCES' },
  });
}
