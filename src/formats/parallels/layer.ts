import { DiskError } from '../../errors.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { Layer, OpenContext } from '../driver.ts';
import { EntryMeaning, FlatPlaces, GrainMap } from '../mapped/grain-map.ts';
import { HostSpace } from '../mapped/host-space.ts';
import { MappedLayer } from '../mapped/layer.ts';
import { WritableMappedLayer } from '../mapped/writable-layer.ts';
import { clusterUse, maxEntry } from './clusters.ts';
import { headerBytes, type ParallelsHeader, parseHeader } from './header.ts';

/** Reads the header. Throws `corrupt` and `unsupported`. */
export async function readParallelsHeader(source: ByteSource): Promise<ParallelsHeader> {
  const bytes = new Uint8Array(Math.min(headerBytes, source.size));
  await source.read(0, bytes);
  return parseHeader(bytes, source.name);
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
  const end = await endOf(store, header);
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
async function endOf(store: ByteStore, header: ParallelsHeader): Promise<number> {
  const { crossed, end } = await clusterUse(store, header);
  for (const index of crossed.keys()) {
    const message = `BAT entry ${index} names room that is in use already; the image must be repaired first`;
    throw new DiskError('corrupt', message, {
      path: store.name,
      offset: headerBytes + index * 4,
      field: 'BAT entry',
      detail: { errno: 'EIO' },
    });
  }
  return end;
}
