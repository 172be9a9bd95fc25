import { alignUp, viewOf } from '../../bytes/numbers.ts';
import { isZero } from '../../bytes/zero.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';

const pieceBytes = 1 << 20;

/** Entries of a table, one after the other. */
export interface TablePiece {
  /** The number of its first entry. */
  readonly first: number;
  readonly count: number;
  /** Of `count` entries; used for the next piece again. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Byte offset in the file. */
  readonly at: number;
  /** All entries are 0. A sparse file may claim any number of such pieces, so they are better dealt with as one. */
  readonly zero: boolean;
}

/** A table that lies in one piece: bytes of the file. */
export interface TableRoom {
  readonly at: number;
  readonly entryBytes: 4 | 8;
  readonly entries: number;
  /** What an error calls the field that says where it lies. */
  readonly field: string;
}

/**
 * Hands out a table piece by piece, so that its length, which a header claims, is no amount of memory. The rest of the
 * file's last sector counts as zeroes. Throws `corrupt` where the file ends before the table does.
 */
export async function* scanTable(
  source: ByteSource,
  { at, entryBytes, entries, field }: TableRoom,
  signal?: AbortSignal,
): AsyncGenerator<TablePiece> {
  const length = entries * entryBytes;
  if (at + length > alignUp(source.size, 512)) {
    throw new DiskError('corrupt', 'The table of the map lies past the end of the file', {
      path: source.name,
      offset: at,
      field,
      detail: { errno: 'EIO', fileSize: source.size },
    });
  }
  const buffer = new Uint8Array(Math.min(pieceBytes, length));
  for (let done = 0; done < length; done += buffer.length) {
    signal?.throwIfAborted();
    const bytes = buffer.subarray(0, Math.min(buffer.length, length - done));
    const there = Math.max(0, Math.min(bytes.length, source.size - at - done));
    if (there > 0) await source.read(at + done, bytes.subarray(0, there));
    bytes.fill(0, there);
    const first = done / entryBytes;
    const count = bytes.length / entryBytes;
    yield { first, count, bytes, view: viewOf(bytes), at: at + done, zero: isZero(bytes) };
  }
}
