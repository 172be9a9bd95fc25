import { isBytes, notBytes } from '../bytes/is-bytes.ts';
import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';

/** Throws `bad-argument` for a range that is none: done with numbers that are rounded or wrap, it would be another one, or nothing. */
export function assertRange(path: string, at: number, length: number): void {
  if (isOffset(at) && isOffset(length) && isOffset(at + length)) return;
  throw new DiskError('bad-argument', `No range of ${length} bytes at ${at}`, { path });
}

/** Throws `bad-argument` for anything but bytes: it has a length that is not one in bytes, or none. */
export function assertBytes(path: string, bytes: unknown): void {
  if (!isBytes(bytes)) throw new DiskError('bad-argument', notBytes(bytes), { path });
}
