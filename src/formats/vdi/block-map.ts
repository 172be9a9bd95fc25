import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import { EntryMeaning, FlatPlaces, GrainMap, type MapEncoding } from '../mapped/grain-map.ts';
import { BlockEntry, blockBytes, type VdiHeader } from './header.ts';

/** Entries are numbers of blocks after the data offset, little-endian. */
export function mapOf(source: ByteSource, header: VdiHeader): GrainMap {
  const places = new FlatPlaces(header.mapOffset, 4, header.blocks);
  return new GrainMap({ source, grain: blockBytes, encoding: encodingOf(header), places });
}

function encodingOf({ dataOffset, parent }: VdiHeader): MapEncoding {
  // Without a parent nothing can lie below.
  const free = parent === undefined ? EntryMeaning.zero : EntryMeaning.hole;
  return {
    entryBytes: 4,
    decode(view, at) {
      const entry = view.getUint32(at, true);
      if (entry === BlockEntry.free) return free;
      return entry === BlockEntry.zero ? EntryMeaning.zero : dataOffset + entry * blockBytes;
    },
    encode(view, at, value) {
      view.setUint32(at, value < 0 ? BlockEntry.zero : (value - dataOffset) / blockBytes, true);
    },
  };
}

/** The block map as it lies in the file, whole. Throws `corrupt` where the file ends before it does. */
export async function readBlockMap(source: ByteSource, header: VdiHeader): Promise<DataView> {
  const length = header.blocks * 4;
  if (header.mapOffset + length > alignUp(source.size, 512)) {
    throw new DiskError('corrupt', 'The block map lies past the end of the file', {
      path: source.name,
      offset: header.mapOffset,
      field: 'offset_bmap',
      detail: { errno: 'EIO', fileSize: source.size },
    });
  }
  const bytes = new Uint8Array(length);
  const there = Math.min(length, source.size - header.mapOffset);
  if (there > 0) await source.read(header.mapOffset, bytes.subarray(0, there));
  return new DataView(bytes.buffer);
}

/** Blocks of the file as the map uses them. */
export interface BlockUse {
  /** Numbers of blocks before the last one in use that nobody uses, highest first. */
  readonly gaps: readonly number[];
  /** The number after the last block in use. */
  readonly end: number;
}

/**
 * Tells which blocks are in use, for a writer. Throws `corrupt` for a block that is used twice, or lies where no block
 * can: what is written into such an image changes data elsewhere.
 */
export function blockUse(map: DataView, header: VdiHeader, path: string): BlockUse {
  const used = new Uint8Array(header.blocks);
  let end = 0;
  for (let index = 0; index < header.blocks; index++) {
    const entry = map.getUint32(index * 4, true);
    if (entry >= BlockEntry.zero) continue;
    const wrong = entry >= header.blocks ? 'too large' : used[entry] === 1 ? 'used twice' : undefined;
    if (wrong) {
      throw new DiskError(
        'corrupt',
        `Block map entry ${index} is ${wrong}; the image must be repaired first`,
        {
          path,
          offset: header.mapOffset + index * 4,
          field: 'block map',
          detail: { errno: 'EIO', value: entry },
        },
      );
    }
    used[entry] = 1;
    end = Math.max(end, entry + 1);
  }
  const gaps: number[] = [];
  for (let block = end - 1; block >= 0; block--) if (used[block] === 0) gaps.push(block);
  return { gaps, end };
}
