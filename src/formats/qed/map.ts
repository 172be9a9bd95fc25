import { writeU64LE } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import { EntryMeaning, GrainMap } from '../mapped/grain-map.ts';
import { readL1 } from '../mapped/read-l1.ts';
import { TwoLevelPlaces } from '../mapped/two-level.ts';
import { isClusterOffset, isTableOffset, type QedHeader, tableBytesOf } from './header.ts';

const two32 = 0x1_0000_0000;

/** Guest bytes that an L2 table covers. */
function l2SpanOf(header: QedHeader): number {
  return (tableBytesOf(header) / 8) * header.clusterSize;
}

/** The part of the L1 table that a disk of `size` bytes needs. */
export function readL1Of(source: ByteSource, header: QedHeader, size = header.size): Promise<Uint8Array> {
  return readL1(source, header.l1Offset, Math.ceil(size / l2SpanOf(header)) * 8);
}

/** `fileSize`: how far clusters may lie; grows with the file. Throws `corrupt`. */
export async function mapOf(
  source: ByteSource,
  header: QedHeader,
  fileSize: () => number,
): Promise<GrainMap> {
  const read = (view: DataView, at: number) =>
    view.getUint32(at + 4, true) * two32 + view.getUint32(at, true);
  const places = new TwoLevelPlaces({
    path: source.name,
    l1: await readL1Of(source, header),
    l1At: header.l1Offset,
    l2Bytes: tableBytesOf(header),
    codec: { read, write: writeU64LE },
    isValid: (at) => isTableOffset(header, at, fileSize()),
    errno: 'EINVAL',
  });
  return new GrainMap({
    source,
    grain: header.clusterSize,
    places,
    encoding: {
      entryBytes: 8,
      decode(view, at) {
        const value = read(view, at);
        if (value === 0) return EntryMeaning.hole;
        if (value === 1) return EntryMeaning.zero;
        return isClusterOffset(header, value, fileSize()) ? value : EntryMeaning.invalid;
      },
      encode(view, at, value) {
        writeU64LE(view, at, value >= 0 ? value : value === EntryMeaning.zero ? 1 : 0);
      },
    },
  });
}
