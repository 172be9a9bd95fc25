import { DiskError } from '../../errors.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { Layer, OpenContext } from '../driver.ts';
import { EntryMeaning, FlatPlaces, GrainMap } from '../mapped/grain-map.ts';
import { HostSpace } from '../mapped/host-space.ts';
import { MappedLayer } from '../mapped/layer.ts';
import { readL1 } from '../mapped/read-l1.ts';
import { WritableMappedLayer } from '../mapped/writable-layer.ts';
import { crossedEntries, maxEntry } from './clusters.ts';
import { headerBytes, type ParallelsHeader, parseHeader } from './header.ts';

/** Reads the header. Throws `corrupt` and `unsupported`. */
export async function readParallelsHeader(source: ByteSource): Promise<ParallelsHeader> {
  const bytes = new Uint8Array(Math.min(headerBytes, source.size));
  await source.read(0, bytes);
  return parseHeader(bytes, source.name);
}

/** The block allocation table, whole. Throws `corrupt` where the file ends before it does. */
export async function readTable(source: ByteSource, { entries }: ParallelsHeader): Promise<DataView> {
  const bytes = await readL1(source, headerBytes, entries * 4);
  return new DataView(bytes.buffer);
}

export async function openParallels(source: ByteSource, context: OpenContext): Promise<Layer> {
  const header = await readParallelsHeader(source);
  const { size } = header;
  const options = { format: 'parallels', map: mapOf(source, header), size, details: {} };
  if (!context.writable || context.metadataOnly || context.checking) return new MappedLayer(options);
  if (header.extensionOffset !== 0) {
    throw new DiskError(
      'unsupported',
      'Parallels images with an extension (dirty bitmaps) can only be read',
      {
        path: source.name,
        field: 'ext_off',
      },
    );
  }
  const store = source as ByteStore;
  if (size > header.entries * header.clusterBytes) {
    throw new DiskError('corrupt', 'The disk is larger than its block allocation table', {
      path: store.name,
      field: 'bat_entries',
      detail: { errno: 'EINVAL' },
    });
  }
  const end = endOf(await readTable(store, header), header, store.name);
  const { clusterBytes: grain, entryUnit: unit } = header;
  const space = new HostSpace({ path: store.name, end, limit: maxEntry * unit + grain, grain, unit });
  return new WritableMappedLayer({ ...options, store, space });
}

function mapOf(source: ByteSource, { clusterBytes, entries, entryUnit }: ParallelsHeader): GrainMap {
  return new GrainMap({
    source,
    grain: clusterBytes,
    places: new FlatPlaces(headerBytes, 4, entries),
    encoding: {
      entryBytes: 4,
      decode(view, at) {
        const entry = view.getUint32(at, true);
        return entry === 0 ? EntryMeaning.hole : entry * entryUnit;
      },
      encode(view, at, value) {
        view.setUint32(at, value < 0 ? 0 : value / entryUnit, true);
      },
    },
  });
}

/**
 * Where the last cluster ends. Throws `corrupt` for one that shares bytes with another or with the table: writing it
 * would change data elsewhere.
 */
function endOf(table: DataView, header: ParallelsHeader, path: string): number {
  const [crossed] = crossedEntries(table, header);
  if (crossed !== undefined) {
    const message = `BAT entry ${crossed} names room that is in use already; the image must be repaired first`;
    throw new DiskError('corrupt', message, {
      path,
      offset: headerBytes + crossed * 4,
      field: 'BAT entry',
      detail: { errno: 'EIO' },
    });
  }
  let end = header.dataOffset;
  for (let at = 0; at < table.byteLength; at += 4) {
    const entry = table.getUint32(at, true);
    if (entry !== 0) end = Math.max(end, entry * header.entryUnit + header.clusterBytes);
  }
  return end;
}
