import { SparseBits } from '../../bytes/sparse-bits.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import { EntryMeaning, FlatPlaces, GrainMap, type MapEncoding } from '../mapped/grain-map.ts';
import { scanTable, type TablePiece } from '../mapped/scan-table.ts';
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

/** The block map as it lies in the file, piece by piece. Throws `corrupt` where the file ends before it does. */
export function scanBlockMap(
  source: ByteSource,
  header: VdiHeader,
  signal?: AbortSignal,
): AsyncGenerator<TablePiece> {
  const room = { at: header.mapOffset, entryBytes: 4, entries: header.blocks, field: 'offset_bmap' } as const;
  return scanTable(source, room, signal);
}

/** Blocks of the file as the map uses them. */
export interface BlockUse {
  readonly used: SparseBits;
  /** The number after the last block in use. */
  readonly end: number;
}

/**
 * Tells which blocks are in use, for a writer. Throws `corrupt` for a block that is used twice, or lies where no block
 * can: what is written into such an image changes data elsewhere.
 */
export async function blockUse(source: ByteSource, header: VdiHeader): Promise<BlockUse> {
  const used = new SparseBits();
  let end = 0;
  for await (const { first, count, view, at } of scanBlockMap(source, header)) {
    for (let index = 0; index < count; index++) {
      const entry = view.getUint32(index * 4, true);
      if (entry >= BlockEntry.zero) continue;
      const wrong = entry >= header.blocks ? 'too large' : used.add(entry) ? undefined : 'used twice';
      if (wrong) {
        const message = `Block map entry ${first + index} is ${wrong}; the image must be repaired first`;
        throw new DiskError('corrupt', message, {
          path: source.name,
          offset: at + index * 4,
          field: 'block map',
          detail: { errno: 'EIO', value: entry },
        });
      }
      end = Math.max(end, entry + 1);
    }
  }
  return { used, end };
}
