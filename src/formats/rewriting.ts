import { DiskError } from '../errors.ts';

/** A file may not change underneath while somebody writes into space that the map is yet to name. */
export function writeUnderWay(path: string): DiskError {
  return new DiskError('in-use', 'A write is under way on the image that is to be repaired', {
    path,
    detail: { fix: 'await it first' },
  });
}

/** What is known of an image is not true any more, since its file was changed underneath. */
export function mustReopen(path: string, cause?: unknown): DiskError {
  return new DiskError('changed', 'The image was repaired: close it, and open it again', { path, cause });
}
