import { bytesOf } from '../../bytes/byte-text.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { BitmapContent, BitmapInfo, LayerBitmaps } from '../driver.ts';
import { DirtyBits } from './bitmap-bits.ts';
import {
  type BitmapEntry,
  encodeBitmapDirectory,
  flagAuto,
  inconsistentBitmap,
  maxGranularityBits,
  maxNameBytes,
  minGranularityBits,
  type NewBitmapEntry,
  readBitmapDirectory,
} from './bitmap-directory.ts';
import { type BitmapChange, changeBitmaps } from './bitmap-store.ts';
import { allZeroes, readBits } from './bitmap-table.ts';
import { maxBitmapDirectoryBytes, maxBitmaps } from './constants.ts';
import { clusterSizeOf, type Qcow2Header } from './header.ts';
import type { Qcow2Writer } from './writer.ts';

/** QEMU's limit for the data of one bitmap. */
const maxBitmapBytes = 0x2000_0000;

/** The persistent bitmaps of one image (section "Bitmaps"). Messages are QEMU's. */
export class Qcow2Bitmaps implements LayerBitmaps {
  readonly #source: ByteSource;
  readonly #header: () => Qcow2Header;
  readonly #change: ((work: (writer: Qcow2Writer) => Promise<void>) => Promise<void>) | undefined;

  constructor(
    source: ByteSource,
    header: () => Qcow2Header,
    change?: (work: (writer: Qcow2Writer) => Promise<void>) => Promise<void>,
  ) {
    this.#source = source;
    this.#header = header;
    this.#change = change;
  }

  get supported(): boolean {
    return this.#header().version >= 3;
  }

  async list(): Promise<readonly BitmapInfo[]> {
    const entries = await readBitmapDirectory(this.#source, this.#header());
    return entries.map(({ name, granularityBits, auto, inUse }) => ({
      name,
      granularity: 2 ** granularityBits,
      enabled: auto,
      inconsistent: inUse,
    }));
  }

  async content(name: string): Promise<BitmapContent> {
    if (this.#change) {
      let bits: BitmapContent | undefined;
      // What was recorded so far belongs to it.
      await this.#change(async (writer) => {
        await writer.stopTracking();
        bits = await this.#read(name);
      });
      return bits!;
    }
    return this.#read(name);
  }

  async #read(name: string): Promise<BitmapContent> {
    const header = this.#header();
    const entries = await readBitmapDirectory(this.#source, header);
    return readBits(this.#source, header, usable(this.#source.name, entries, name));
  }

  async add({ name, granularity, enabled = true }: Parameters<LayerBitmaps['add']>[0]): Promise<void> {
    const header = this.#header();
    const bytes = granularity ?? Math.min(65536, Math.max(4096, clusterSizeOf(header)));
    const nameBytes = bytesOf(name);
    await this.#alter(async (change, entries) => {
      checkNew(this.#source.name, header, entries, { name, nameBytes, granularity: bytes });
      const bits = new DirtyBits(header.size, bytes, clusterSizeOf(header));
      const table = new Array<number>(bits.partCount).fill(allZeroes);
      const added: NewBitmapEntry = {
        nameBytes,
        granularityBits: Math.log2(bytes),
        flags: enabled ? flagAuto : 0,
        ...(await change.writeTable(table)),
      };
      return [...entries, added];
    });
  }

  async remove(name: string): Promise<void> {
    await this.#alter(async (change, entries) => {
      const entry = found(this.#source.name, entries, name);
      await change.dropBitmap(entry);
      return entries.filter((other) => other !== entry);
    });
  }

  async clear(name: string): Promise<void> {
    await this.#alterOne(name, async (change, entry) => {
      await change.dropBitmap(entry);
      return change.writeTable(new Array<number>(entry.tableSize).fill(allZeroes));
    });
  }

  async enable(name: string, enabled: boolean): Promise<void> {
    await this.#alterOne(name, async (_change, { flags }) => ({
      flags: enabled ? flags | flagAuto : flags & ~flagAuto,
    }));
  }

  async merge(name: string, from: BitmapContent): Promise<void> {
    const header = this.#header();
    await this.#alterOne(name, (change, entry) => {
      if (from.size !== header.size) {
        throw new DiskError(
          'bad-argument',
          `Bitmaps are of different sizes (destination size is ${header.size}, source size is ${from.size}) and can't be merged`,
          { path: this.#source.name, field: 'bitmap', detail: { errno: 'EINVAL' } },
        );
      }
      const bits = new DirtyBits(header.size, 2 ** entry.granularityBits, clusterSizeOf(header));
      for (const { offset, length } of from.ranges()) bits.set(offset, length);
      return change.addBits(entry, bits);
    });
  }

  #alterOne(
    name: string,
    work: (change: BitmapChange, entry: BitmapEntry) => Promise<Partial<NewBitmapEntry>>,
  ): Promise<void> {
    return this.#alter(async (change, entries) => {
      const entry = usable(this.#source.name, entries, name);
      const altered = { ...entry, ...(await work(change, entry)) };
      return entries.map((other) => (other === entry ? altered : other));
    });
  }

  async #alter(
    work: (change: BitmapChange, entries: readonly BitmapEntry[]) => Promise<readonly NewBitmapEntry[]>,
  ): Promise<void> {
    if (!this.#change) {
      throw new DiskError('read-only', 'The image was opened for reading only', { path: this.#source.name });
    }
    await this.#change(async (writer) => {
      await writer.load();
      // What was recorded up to now is stored first: a change works on what the image holds.
      await writer.stopTracking();
      await changeBitmaps(writer, work);
    });
  }
}

function found(path: string, entries: readonly BitmapEntry[], name: string): BitmapEntry {
  const entry = entries.find((one) => one.name === name);
  if (entry) return entry;
  throw new DiskError('not-found', `Dirty bitmap '${name}' not found`, {
    path,
    field: 'bitmap',
    detail: { name, errno: 'ENOENT' },
  });
}

function usable(path: string, entries: readonly BitmapEntry[], name: string): BitmapEntry {
  const entry = found(path, entries, name);
  if (entry.inUse) throw inconsistentBitmap(path, name);
  return entry;
}

/** Refuses what QEMU refuses, in its order. */
function checkNew(
  path: string,
  header: Qcow2Header,
  entries: readonly BitmapEntry[],
  wanted: { readonly name: string; readonly nameBytes: Uint8Array; readonly granularity: number },
): void {
  const { name, nameBytes, granularity } = wanted;
  const bits = Math.log2(granularity);
  const fail = (
    code: 'bad-argument' | 'exists' | 'unsupported' | 'out-of-range',
    message: string,
    stored = true,
  ) => new DiskError(code, message, { path, field: 'bitmap', detail: { name, stored, errno: 'EINVAL' } });
  if (name === '') throw fail('bad-argument', 'Bitmap name cannot be empty', false);
  if (granularity < 512 || !Number.isInteger(bits)) {
    throw fail('bad-argument', 'Granularity must be power of 2 and at least 512', false);
  }
  if (entries.some((entry) => entry.name === name))
    throw fail('exists', `Bitmap already exists: ${name}`, false);
  if (header.version < 3) throw fail('unsupported', 'Cannot store dirty bitmaps in qcow2 v2 files');
  if (bits > maxGranularityBits || bits < minGranularityBits) {
    throw fail('bad-argument', `Granularity exceeds maximum (${2 ** maxGranularityBits} bytes)`);
  }
  if (nameBytes.length > maxNameBytes) {
    throw fail('bad-argument', `Name length exceeds maximum (${maxNameBytes} characters)`);
  }
  if (header.size > maxBitmapBytes * 8 * granularity) {
    throw fail('out-of-range', 'Too much space will be occupied by the bitmap. Use larger granularity');
  }
  if (entries.length >= maxBitmaps) {
    throw fail('out-of-range', 'Maximum number of persistent bitmaps is already reached');
  }
  const next: NewBitmapEntry = { nameBytes, flags: 0, granularityBits: bits, tableOffset: 0, tableSize: 0 };
  if (encodeBitmapDirectory([...entries, next]).length > maxBitmapDirectoryBytes) {
    throw fail('out-of-range', 'Not enough space in the bitmap directory');
  }
}
