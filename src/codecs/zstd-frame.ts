import { DiskError } from '../errors.ts';

const magic = 0xfd2fb528;
/** Skippable frames have magic numbers from this on, sixteen of them. */
const skippableMagic = 0x184d2a50;

/**
 * Bytes of the zstd frame that begins at `at` of `packed` (RFC 8878, section 3.1): block headers say where it ends, so
 * that what follows it, padding or the next unit, is not taken for data. Throws `corrupt`.
 */
export function zstdFrameLength(packed: Uint8Array, at = 0): number {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const need = (end: number): void => {
    if (end > packed.length) throw damagedZstd('the data ends too early');
  };
  need(at + 8);
  const first = view.getUint32(at, true);
  if (first >= skippableMagic && first <= skippableMagic + 15) {
    const length = 8 + view.getUint32(at + 4, true);
    need(at + length);
    return length;
  }
  if (first !== magic) throw damagedZstd('no frame begins where one should');
  const descriptor = packed[at + 4];
  const singleSegment = (descriptor & 0x20) !== 0;
  const sizeFlag = descriptor >>> 6;
  const sizeBytes = sizeFlag === 0 ? (singleSegment ? 1 : 0) : 2 ** sizeFlag;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  let end = at + 5 + (singleSegment ? 0 : 1) + dictionaryBytes + sizeBytes;
  for (let last = false; !last; ) {
    need(end + 3);
    const header = packed[end] | (packed[end + 1] << 8) | (packed[end + 2] << 16);
    last = (header & 1) !== 0;
    const kind = (header >>> 1) & 3;
    if (kind === 3) throw damagedZstd('a block of unknown type');
    // A run of one byte is stored as that byte.
    end += 3 + (kind === 1 ? 1 : header >>> 3);
  }
  if ((descriptor & 4) !== 0) end += 4;
  need(end);
  return end - at;
}

export function damagedZstd(why: string): DiskError {
  return new DiskError('corrupt', `The compressed data is damaged: ${why}`, { detail: { errno: 'EIO' } });
}
