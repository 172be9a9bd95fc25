import { writeU64BE } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import { EntryMeaning, GrainMap, type MapEncoding } from '../mapped/grain-map.ts';
import { readL1 } from '../mapped/read-l1.ts';
import { TwoLevelPlaces } from '../mapped/two-level.ts';
import { l1SizeOf, type QcowHeader } from './header.ts';

const two32 = 0x1_0000_0000;
/** The first level stays in memory: that of a disk of 32 TiB, as QEMU makes them. */
const maxL1Bytes = 128 << 20;
const packedFlag = 0x8000_0000;

/** Reads the L1 table. Throws `corrupt` where the file ends before it does. */
export async function mapOf(source: ByteSource, header: QcowHeader): Promise<GrainMap> {
  const l1Bytes = l1SizeOf(header) * 8;
  if (l1Bytes > maxL1Bytes) {
    throw new DiskError('unsupported', `L1 tables of more than ${maxL1Bytes} bytes are not supported`, {
      path: source.name,
      field: 'size',
      detail: { errno: 'EFBIG', l1Bytes },
    });
  }
  const l1 = await readL1(source, header.l1Offset, l1Bytes);
  const places = new TwoLevelPlaces({
    path: source.name,
    l1,
    l1At: header.l1Offset,
    l2Bytes: 2 ** header.l2Bits * 8,
    codec: {
      read: (view, at) => view.getUint32(at) * two32 + view.getUint32(at + 4),
      write: writeU64BE,
    },
    isValid: (at) => at % 8 === 0,
  });
  return new GrainMap({ source, grain: 2 ** header.clusterBits, encoding: encodingOf(header), places });
}

function encodingOf({ clusterBits }: QcowHeader): MapEncoding {
  // Bits of the entry's high word that belong to the offset of packed data; its length lies above them.
  const offsetBits = 31 - clusterBits;
  return {
    entryBytes: 8,
    decode(view, at) {
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if (high >= packedFlag) return EntryMeaning.packed;
      if (high === 0 && low === 0) return EntryMeaning.hole;
      return high < 0x20_0000 && low % 512 === 0 ? high * two32 + low : EntryMeaning.invalid;
    },
    encode(view, at, value) {
      writeU64BE(view, at, Math.max(0, value));
    },
    packed(view, at) {
      const high = view.getUint32(at) % packedFlag;
      const offset = (high % 2 ** offsetBits) * two32 + view.getUint32(at + 4);
      return { offset, length: Math.floor(high / 2 ** offsetBits) };
    },
  };
}

/** Packed clusters must lie before this, since their lengths share the entry: host bytes. */
export function packedLimitOf({ clusterBits }: Pick<QcowHeader, 'clusterBits'>): number {
  return 2 ** Math.min(53, 63 - clusterBits);
}

/** Writes the entry of a packed cluster. */
export function encodePacked(
  view: DataView,
  at: number,
  {
    clusterBits,
    offset,
    length,
  }: { readonly clusterBits: number; readonly offset: number; readonly length: number },
): void {
  view.setUint32(at, packedFlag + length * 2 ** (31 - clusterBits) + Math.floor(offset / two32));
  view.setUint32(at + 4, offset % two32);
}
