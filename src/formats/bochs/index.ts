import { alignUp, viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { FormatDriver, Layer, LayerDetails, OpenContext, Run } from '../driver.ts';
import { readOnly } from '../read-only.ts';

/*
 * Bochs' growing redolog (Bochs: hdimage.h), little-endian: a header, a catalog of extents, and extents, each with a
 * bitmap of its sectors before it.
 */

const free = 0xffff_ffff;
const maxExtentBytes = 0x80_0000;
const maxCatalog = 0x10_0000;
/** Bitmaps that are kept. */
const residentBitmaps = 64;

/** Bochs' growing disk image, for reading. */
export const bochs: FormatDriver = {
  name: 'bochs',
  createOptions: [],
  probe: ({ head }) => (isBochs(head) ? 100 : 0),
  open: openBochs,
};

function isBochs(head: Uint8Array): boolean {
  if (head.length < 512) return false;
  const text = (at: number, length: number) => String.fromCharCode(...head.subarray(at, at + length));
  if (text(0, 23) !== 'Bochs Virtual HD Image\0') return false;
  if (text(32, 8) !== 'Redolog\0' || text(48, 8) !== 'Growing\0') return false;
  const version = viewOf(head).getUint32(64, true);
  return version === 0x10000 || version === 0x20000;
}

async function openBochs(source: ByteSource, context: OpenContext): Promise<Layer> {
  if (context.writable) throw readOnly('bochs', source);
  const refuse = (field: string, message: string, errno = 'EINVAL'): never => {
    throw new DiskError('corrupt', message, { path: source.name, field, detail: { errno } });
  };
  const head = new Uint8Array(Math.min(512, source.size));
  await source.read(0, head);
  if (!isBochs(head)) refuse('magic', 'Image not in Bochs format');
  const view = viewOf(head);
  const u32 = (at: number) => view.getUint32(at, true);
  const [headerBytes, entries, bitmapBytes, extentBytes] = [68, 72, 76, 80].map(u32);
  const stored = view.getBigUint64(u32(64) === 0x10000 ? 84 : 88, true);
  if (stored > 2n ** 53n - 512n) refuse('disk', 'The disk has more than 2^53 - 1 bytes');
  const size = Math.floor(Number(stored) / 512) * 512;
  if (entries > maxCatalog) refuse('catalog', 'Catalog size is too large', 'EFBIG');
  if (extentBytes < 512) refuse('extent', 'Extent size must be at least 512');
  if (!Number.isInteger(Math.log2(extentBytes)))
    refuse('extent', `Extent size ${extentBytes} is not a power of two`);
  if (extentBytes > maxExtentBytes) refuse('extent', `Extent size ${extentBytes} is too large`);
  if (entries * extentBytes < size) refuse('catalog', 'Catalog size is too small for this disk size');
  if (bitmapBytes * 8 < extentBytes / 512 || bitmapBytes > maxExtentBytes) {
    refuse('bitmap', `A bitmap of ${bitmapBytes} bytes does not fit an extent of ${extentBytes}`);
  }
  if (headerBytes + entries * 4 > source.size)
    refuse('catalog', 'The catalog lies past the end of the file', 'EIO');
  const catalog = new Uint8Array(entries * 4);
  await source.read(headerBytes, catalog);
  return new BochsLayer(source, size, viewOf(catalog), {
    dataOffset: headerBytes + entries * 4,
    bitmapSpace: alignUp(bitmapBytes, 512),
    extentBytes,
  });
}

interface Geometry {
  /** Host bytes. */
  readonly dataOffset: number;
  /** Bytes that the bitmap before an extent takes. */
  readonly bitmapSpace: number;
  readonly extentBytes: number;
}

class BochsLayer implements Layer {
  readonly format = 'bochs';
  readonly source: ByteSource;
  readonly size: number;
  readonly grain = 512;
  readonly #catalog: DataView;
  readonly #geometry: Geometry;
  /** By extent, the one used last at the end. */
  readonly #bitmaps = new Map<number, Uint8Array>();

  constructor(source: ByteSource, size: number, catalog: DataView, geometry: Geometry) {
    this.source = source;
    this.size = size;
    this.#catalog = catalog;
    this.#geometry = geometry;
  }

  locate(offset: number, length: number): Run | undefined {
    const { extentBytes, bitmapSpace } = this.#geometry;
    const extent = Math.floor(offset / extentBytes);
    const end = Math.min(offset + length, this.size, (extent + 1) * extentBytes);
    const at = this.#hostOf(extent);
    if (at === undefined) return { offset, length: end - offset, kind: 'zero' };
    const bitmap = this.#bitmaps.get(extent);
    if (!bitmap) return undefined;
    const start = extent * extentBytes;
    const first = Math.floor((offset - start) / 512);
    const data = isSet(bitmap, first);
    let last = first + 1;
    while (start + last * 512 < end && isSet(bitmap, last) === data) last++;
    const runLength = Math.min(end, start + last * 512) - offset;
    if (!data) return { offset, length: runLength, kind: 'zero' };
    return {
      offset,
      length: runLength,
      kind: 'data',
      source: this.source,
      at: at + bitmapSpace + (offset - start),
    };
  }

  async fault(offset: number): Promise<void> {
    const extent = Math.floor(offset / this.#geometry.extentBytes);
    const at = this.#hostOf(extent);
    if (at === undefined || this.#bitmaps.has(extent)) return;
    const bitmap = new Uint8Array(Math.ceil(this.#geometry.extentBytes / 512 / 8));
    if (at + bitmap.length > this.source.size) {
      throw new DiskError('corrupt', `Extent ${extent} lies past the end of the file`, {
        path: this.source.name,
        offset: at,
        field: 'catalog',
        detail: { errno: 'EIO' },
      });
    }
    await this.source.read(at, bitmap);
    this.#bitmaps.set(extent, bitmap);
    if (this.#bitmaps.size > residentBitmaps) this.#bitmaps.delete(this.#bitmaps.keys().next().value!);
  }

  /** Where an extent's bitmap begins. */
  #hostOf(extent: number): number | undefined {
    const { dataOffset, bitmapSpace, extentBytes } = this.#geometry;
    const entry = this.#catalog.getUint32(extent * 4, true);
    return entry === free ? undefined : dataOffset + entry * (bitmapSpace + extentBytes);
  }

  async details(): Promise<LayerDetails> {
    return {};
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}

function isSet(bitmap: Uint8Array, sector: number): boolean {
  return (bitmap[Math.floor(sector / 8)] & (1 << (sector % 8))) !== 0;
}
