import { DiskError, isDiskError } from '../../errors.ts';

/** Fields of which QEMU says, where it finds them untrue, that the image is corrupt; metadata goes by its own names. */
const signalled = new Set([
  'L2 entry',
  'L2 table offset',
  'refcount block offset',
  'qcow2_header',
  'active L1 table',
  'active L2 table',
  'refcount table',
  'refcount block',
  'snapshot table',
  'inactive L1 table',
  'inactive L2 table',
  'bitmap directory',
]);

/**
 * The same error, saying that the image has been marked, where it tells of a table that cannot be true. A table that a
 * file was cut short of is no reason for a mark: the file may be made whole.
 */
export function asCorruption(error: unknown): DiskError | undefined {
  if (!isDiskError(error, 'corrupt') || !signalled.has(error.field ?? '')) return undefined;
  if (error.detail.fileSize !== undefined) return undefined;
  const { message, path, offset, field, detail } = error;
  return new DiskError('corrupt', message, {
    path,
    offset,
    field,
    detail: { ...detail, marked: true },
    cause: error.cause,
  });
}
