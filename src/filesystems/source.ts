import { DiskError } from '../errors.ts';

/** Bytes that a partition table or a file system is read from: an `Image`, or a window on one. */
export interface ByteSource {
  readonly size: number;
  /** Fills `into` from `offset`. Throws `out-of-range` past the end. */
  read(offset: number, into: Uint8Array): Promise<void>;
}

/** The part of `source` from `offset` on, `length` bytes. Throws `out-of-range` where it does not lie in `source`. */
export function windowOf(source: ByteSource, offset: number, length: number): ByteSource {
  if (offset < 0 || length < 0 || offset + length > source.size) {
    throw new DiskError('out-of-range', `${length} bytes at ${offset} do not lie in ${source.size} bytes`, {
      offset,
    });
  }
  return {
    size: length,
    async read(at, into) {
      if (at < 0 || at + into.length > length) {
        throw new DiskError('out-of-range', `${into.length} bytes at ${at} do not lie in ${length} bytes`, {
          offset: at,
        });
      }
      await source.read(offset + at, into);
    },
  };
}

/** `length` bytes of `source` at `offset`. Throws `corrupt` naming `field` where they lie past its end. */
export async function readPart(
  source: ByteSource,
  offset: number,
  length: number,
  field: string,
): Promise<Uint8Array> {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset + length > source.size) {
    throw new DiskError('corrupt', `${field} lies at ${offset}, past the end (${source.size} bytes)`, {
      offset,
      field,
    });
  }
  const bytes = new Uint8Array(length);
  await source.read(offset, bytes);
  return bytes;
}
