import { textOf } from '../../bytes/byte-text.ts';
import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { BackingReference, Layer, LayerDetails, OpenContext, ResizeOptions } from '../driver.ts';
import { HostSpace } from '../mapped/host-space.ts';
import { MappedLayer, type MappedLayerOptions } from '../mapped/layer.ts';
import { ownSpace } from '../mapped/own-space.ts';
import type { TwoLevelPlaces } from '../mapped/two-level.ts';
import { WritableMappedLayer, type WritableMappedOptions } from '../mapped/writable-layer.ts';
import { checkTables } from './check.ts';
import {
  encodeHeader,
  Feature,
  hasFeature,
  headerBytes,
  maxSizeOf,
  parseHeader,
  type QedHeader,
  tableBytesOf,
  withBacking,
} from './header.ts';
import { mapOf, readL1Of } from './map.ts';

/** Reads the header. Throws `corrupt` and `unsupported`. */
export async function readQedHeader(source: ByteSource): Promise<QedHeader> {
  const bytes = new Uint8Array(Math.min(headerBytes, source.size));
  await source.read(0, bytes);
  return parseHeader(bytes, source.size, source.name);
}

/** The name that the header has for a backing file. */
export async function readBacking(
  source: ByteSource,
  header: QedHeader,
): Promise<BackingReference | undefined> {
  if (!hasFeature(header, Feature.backingFile)) return undefined;
  const name = new Uint8Array(header.backingSize);
  await source.read(header.backingOffset, name);
  const path = textOf(name);
  return hasFeature(header, Feature.backingIsRaw) ? { path, format: 'raw' } : { path };
}

export async function openQed(source: ByteSource, context: OpenContext): Promise<Layer> {
  let header = await readQedHeader(source);
  const plain = !context.writable || context.metadataOnly || context.checking;
  if (!plain && hasFeature(header, Feature.needCheck)) {
    await checkTables(source as ByteStore, header, { repair: 'all' });
    header = await readQedHeader(source);
  }
  // QEMU shows no mark of an unclean end either; check takes it away.
  const details: LayerDetails = { clusterSize: header.clusterSize, dirty: false };
  const backing = await readBacking(source, header);
  const { size, clusterSize: grain } = header;
  if (plain) {
    const map = await mapOf(source, header, () => source.size);
    return new MappedLayer({ format: 'qed', map, size, backing, details });
  }
  const store = source as ByteStore;
  const end = alignUp(store.size, grain);
  const space = new HostSpace({ path: store.name, end, grain, unit: grain });
  const map = await mapOf(store, header, () => Math.max(space.end, store.size));
  const options: MappedLayerOptions = { format: 'qed', map, size, backing, details };
  const own = ownSpace(map.places as TwoLevelPlaces, {
    path: store.name,
    fixed: [
      { at: 0, length: Math.max(headerBytes, header.headerSize * grain) },
      { at: header.l1Offset, length: tableBytesOf(header) },
    ],
    end,
  });
  return new WritableQedLayer({ ...options, store, space, own, canMarkZero: true }, header);
}

class WritableQedLayer extends WritableMappedLayer {
  #header: QedHeader;

  constructor(options: WritableMappedOptions, header: QedHeader) {
    super(options);
    this.#header = header;
  }

  /**
   * Grows the disk: durable on return. What would let a longer backing image come to light is zeroed first, past the
   * old end, where nobody looks until the header says so.
   */
  resize(size: number, options: ResizeOptions = {}): Promise<void> {
    return this.changing(() => this.#resize(size, options));
  }

  async #resize(size: number, options: ResizeOptions): Promise<void> {
    const { name: path } = this.store;
    if ((options.preallocation ?? 'off') !== 'off') {
      throw new DiskError('unsupported', `Unsupported preallocation mode '${options.preallocation}'`, {
        path,
        field: 'preallocation',
      });
    }
    const header = this.#header;
    if (size > maxSizeOf(header) || size % 512 !== 0) {
      throw new DiskError('bad-argument', 'Invalid image size specified', {
        path,
        field: 'size',
        detail: { size },
      });
    }
    if (size < this.size) {
      throw new DiskError('unsupported', 'Shrinking images is currently not supported', {
        path,
        field: 'size',
      });
    }
    if (size === this.size) return;
    await this.flush();
    const before = this.size;
    await this.mutex.run(async () => {
      const places = this.map.places as TwoLevelPlaces;
      const l1 = await readL1Of(this.store, header, size);
      if (l1.subarray(places.count * 8).some((byte) => byte !== 0)) {
        throw new DiskError('corrupt', 'L1 entries past the end of the disk are in use', {
          path,
          offset: header.l1Offset + places.count * 8,
          field: 'L1 entry',
          detail: { errno: 'EIO' },
        });
      }
      places.l1 = l1;
    });
    this.size = size;
    try {
      const { grain } = this;
      const from = Math.ceil(before / grain) * grain;
      const to = Math.min(size, Math.ceil((options.hideBacking ?? 0) / grain) * grain);
      if (from < to) await this.mark('zero', from, to - from);
      await this.flush();
      await this.#write({ ...header, size });
    } catch (error) {
      this.size = before;
      throw error;
    }
  }

  /** Durable on return. A name of up to 448 bytes shares the sector of the header, which is written whole or not. */
  setBacking(reference: BackingReference | undefined): Promise<void> {
    return this.changing(() => this.#setBacking(reference));
  }

  async #setBacking(reference: BackingReference | undefined): Promise<void> {
    const { header, name } = withBacking(this.#header, reference, this.store.name);
    await this.flush();
    const bytes = new Uint8Array(headerBytes + name.length);
    bytes.set(encodeHeader(header));
    bytes.set(name, headerBytes);
    await this.store.write(0, bytes);
    await this.store.flush();
    this.#header = header;
    this.backing = reference && { ...reference, format: reference.format === 'raw' ? 'raw' : undefined };
  }

  async #write(header: QedHeader): Promise<void> {
    await this.store.write(0, encodeHeader(header));
    await this.store.flush();
    this.#header = header;
  }
}
