import { DiskError, errorIn } from '../errors.ts';

/** Bytes that a partition table or a file system is read from: an `Image`, or a window on one. */
export interface ByteSource {
  readonly size: number;
  /** The file that errors are told of. An `Image` has one without saying so here. */
  readonly name?: string;
  /** Fills `into` from `offset`. Throws `out-of-range` past the end. */
  read(offset: number, into: Uint8Array): Promise<void>;
}

/** The file that the bytes are of, as far as anybody says. */
export function nameOf(source: ByteSource): string | undefined {
  const { layer } = source as { readonly layer?: { readonly source?: { readonly name?: string } } };
  return source.name ?? layer?.source?.name;
}

/** The same error, and in which file it lies, where it does not say that. */
export function errorAbout(source: ByteSource, error: unknown): unknown {
  const name = nameOf(source);
  return name === undefined ? error : errorIn(name, error);
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
    name: nameOf(source),
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
