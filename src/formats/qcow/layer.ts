import { textOf } from '../../bytes/byte-text.ts';
import { alignDown, alignUp } from '../../bytes/numbers.ts';
import { findCodec } from '../../codecs/codec.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { BackingReference, Layer, LayerDetails, OpenContext } from '../driver.ts';
import { HostSpace } from '../mapped/host-space.ts';
import { MappedLayer, type MappedLayerOptions } from '../mapped/layer.ts';
import { ownSpace } from '../mapped/own-space.ts';
import { SealedLayer } from '../mapped/sealed-layer.ts';
import type { TwoLevelPlaces } from '../mapped/two-level.ts';
import { WritableMappedLayer, type WritableMappedOptions } from '../mapped/writable-layer.ts';
import { headerBytes, l1SizeOf, parseHeader, type QcowHeader } from './header.ts';
import { encodePacked, mapOf, packedLimitOf } from './map.ts';

/** Reads the header. Throws `corrupt` and `unsupported`. */
export async function readQcowHeader(source: ByteSource): Promise<QcowHeader> {
  const bytes = new Uint8Array(Math.min(headerBytes, source.size));
  await source.read(0, bytes);
  return parseHeader(bytes, source.name);
}

/** The name that the header has for a backing file. */
export async function readBacking(
  source: ByteSource,
  { backingOffset, backingSize }: QcowHeader,
): Promise<BackingReference | undefined> {
  if (backingOffset === 0) return undefined;
  if (backingOffset + backingSize > source.size) {
    throw new DiskError('corrupt', 'The name of the backing file lies past the end of the file', {
      path: source.name,
      field: 'backing_file_offset',
      detail: { errno: 'EINVAL' },
    });
  }
  const name = new Uint8Array(backingSize);
  await source.read(backingOffset, name);
  return { path: textOf(name) };
}

export async function openQcow(source: ByteSource, context: OpenContext): Promise<Layer> {
  const header = await readQcowHeader(source);
  const backing = await readBacking(source, header);
  const size = alignDown(header.size, 512);
  const details: LayerDetails = {
    clusterSize: 2 ** header.clusterBits,
    encrypted: header.encrypted || undefined,
    dirty: false,
  };
  if (header.encrypted) {
    const refusal = new DiskError('unsupported', 'Encrypted qcow images (aes) are not supported', {
      path: source.name,
      field: 'crypt_method',
      detail: { method: 'aes' },
    });
    if (!context.metadataOnly) throw refusal;
    return new SealedLayer({
      format: 'qcow',
      source,
      size,
      grain: 2 ** header.clusterBits,
      backing,
      details,
      refusal,
    });
  }
  const map = await mapOf(source, header);
  const options: MappedLayerOptions = {
    format: 'qcow',
    map,
    size,
    backing,
    details,
    unpack: (offset, length) => unpack(source, map.grain, offset, length),
  };
  if (!context.writable) return new MappedLayer(options);
  const store = source as ByteStore;
  const places = map.places as TwoLevelPlaces;
  const { grain } = map;
  // What lies at the end already may be a cluster that the file was cut in.
  const end = alignUp(store.size, places.tables().length > 0 ? grain : 512);
  const fixed = [
    { at: 0, length: headerBytes },
    { at: header.backingOffset, length: backing ? header.backingSize : 0 },
    { at: header.l1Offset, length: l1SizeOf(header) * 8 },
  ];
  const own = ownSpace(places, { path: store.name, fixed, end });
  const space = new HostSpace({ path: store.name, end, grain, unit: grain });
  return new WritableQcowLayer({ ...options, store, space, own }, header);
}

async function unpack(
  source: ByteSource,
  grain: number,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  if (length === 0 || offset + length > source.size) {
    throw new DiskError(
      'corrupt',
      `A compressed cluster of ${length} bytes at ${offset} is not in the file`,
      {
        path: source.name,
        offset: Math.min(offset, Number.MAX_SAFE_INTEGER),
        field: 'compressed cluster',
        detail: { errno: 'EIO', fileSize: source.size },
      },
    );
  }
  const bytes = new Uint8Array(length);
  source.debugEvent?.('read_compressed');
  await source.read(offset, bytes);
  const cluster = new Uint8Array(grain);
  await findCodec('deflate')!.unpack(bytes, cluster);
  return cluster;
}

/** Writes packed clusters too, at the end of the file, each from a sector on. */
class WritableQcowLayer extends WritableMappedLayer {
  readonly #header: QcowHeader;

  constructor(options: WritableMappedOptions, header: QcowHeader) {
    super(options);
    this.#header = header;
  }

  async pack(offset: number, bytes: Uint8Array): Promise<void> {
    const { grain, map, store } = this;
    let cluster = bytes;
    if (bytes.length < grain) {
      cluster = new Uint8Array(grain);
      cluster.set(bytes);
    }
    const packed = await findCodec('deflate')!.pack?.(cluster, grain - 1);
    if (!packed || this.space.end + grain > packedLimitOf(this.#header))
      return this.#writePlain(offset, cluster);
    const at = this.space.takeBytes(packed.length, 512);
    store.debugEvent?.('write_compressed');
    await store.write(at, packed);
    const tableIndex = Math.floor(offset / map.span);
    const entry = ((offset - tableIndex * map.span) / grain) * 8;
    const place = { clusterBits: this.#header.clusterBits, offset: at, length: packed.length };
    await this.withTable(tableIndex, (table) => {
      map.tables.change(table, entry, entry + 8);
      encodePacked(table.view, entry, place);
      map.vet?.replaced(table, entry / 8);
    });
  }

  async #writePlain(offset: number, cluster: Uint8Array): Promise<void> {
    await using reservation = await this.reserve(offset, this.grain);
    await this.store.write(reservation.at, cluster);
    reservation.publish();
  }

  /**
   * Gives back all that it holds. The first level is emptied durably before the file is cut: what is lost between the
   * two is space.
   */
  async empty(): Promise<void> {
    await this.flush();
    await this.mutex.run(() => this.dropTables());
  }
}
