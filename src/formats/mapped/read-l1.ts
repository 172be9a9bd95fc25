import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';

/** Reads a table that must lie in the file as a whole, but for the rest of its last sector. Throws `corrupt`. */
export async function readL1(source: ByteSource, at: number, length: number): Promise<Uint8Array> {
  if (at + length > alignUp(source.size, 512)) {
    throw new DiskError('corrupt', 'The L1 table lies past the end of the file', {
      path: source.name,
      offset: at,
      field: 'l1_table_offset',
      detail: { errno: 'EIO', fileSize: source.size },
    });
  }
  const bytes = new Uint8Array(length);
  const there = Math.min(length, source.size - at);
  source.debugEvent?.('l1_load');
  if (there > 0) await source.read(at, bytes.subarray(0, there));
  return bytes;
}
