import { bytesOf } from '../../bytes/byte-text.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { BitmapChanges, BitmapContent, BitmapsTogether } from '../driver.ts';
import { DirtyBits } from './bitmap-bits.ts';
import {
  type BitmapEntry,
  bitmapCovers,
  encodeBitmapDirectory,
  flagAuto,
  inconsistentBitmap,
  maxGranularityBits,
  maxNameBytes,
  minGranularityBits,
  type NewBitmapEntry,
  newBitmapEntry,
} from './bitmap-directory.ts';
import type { BitmapChange } from './bitmap-store.ts';
import { allZeroes, readBits } from './bitmap-table.ts';
import { maxBitmapDirectoryBytes, maxBitmaps } from './constants.ts';
import { clusterSizeOf, type Qcow2Header } from './header.ts';

/**
 * Changes that become durable as one: each works on what the ones before it have left. Until the directory of `entries` is
 * written, which is the caller's affair, the image has none of them: a bitmap that was added and is about to be filled would
 * claim that nothing has changed.
 */
export class BitmapRow implements BitmapsTogether {
  readonly #source: ByteSource;
  readonly #header: Qcow2Header;
  readonly #change: BitmapChange;
  #entries: readonly BitmapEntry[];
  #changed = false;

  constructor(
    source: ByteSource,
    header: Qcow2Header,
    change: BitmapChange,
    entries: readonly BitmapEntry[],
  ) {
    this.#source = source;
    this.#header = header;
    this.#change = change;
    this.#entries = entries;
  }

  get entries(): readonly BitmapEntry[] {
    return this.#entries;
  }

  /** At least one change has been made. */
  get changed(): boolean {
    return this.#changed;
  }

  async asOne(work: () => Promise<void>): Promise<void> {
    const [entries, changed] = [this.#entries, this.#changed];
    try {
      await this.#change.step(work);
    } catch (error) {
      this.#entries = entries;
      this.#changed = changed;
      throw error;
    }
  }

  async content(name: string): Promise<BitmapContent> {
    return readBits(this.#source, this.#header, usableBitmap(this.#source.name, this.#entries, name));
  }

  async add({ name, granularity, enabled = true }: Parameters<BitmapChanges['add']>[0]): Promise<void> {
    const header = this.#header;
    const bytes = granularity ?? Math.min(65536, Math.max(4096, clusterSizeOf(header)));
    const nameBytes = bytesOf(name);
    checkNew(this.#source.name, header, this.#entries, { name, nameBytes, granularity: bytes });
    const bits = new DirtyBits(header.size, bytes, clusterSizeOf(header));
    const table = new Array<number>(bits.partCount).fill(allZeroes);
    const added = newBitmapEntry({
      nameBytes,
      granularityBits: Math.log2(bytes),
      flags: enabled ? flagAuto : 0,
      ...(await this.#change.step(() => this.#change.writeTable(table))),
    });
    this.#become([...this.#entries, added]);
  }

  async remove(name: string): Promise<void> {
    const entry = found(this.#source.name, this.#entries, name);
    await this.#change.step(() => this.#change.dropBitmap(entry));
    this.#become(this.#entries.filter((other) => other !== entry));
  }

  clear(name: string): Promise<void> {
    return this.#alter(name, async (entry) => {
      await this.#change.dropBitmap(entry);
      return this.#change.writeTable(new Array<number>(entry.tableSize).fill(allZeroes));
    });
  }

  enable(name: string, enabled: boolean): Promise<void> {
    return this.#alter(name, async ({ flags }) => ({
      flags: enabled ? flags | flagAuto : flags & ~flagAuto,
    }));
  }

  merge(name: string, read: () => Promise<BitmapContent>): Promise<void> {
    const header = this.#header;
    return this.#alter(name, async (entry) => {
      const from = await read();
      if (from.size !== header.size) {
        throw new DiskError(
          'bad-argument',
          `Bitmaps are of different sizes (destination size is ${header.size}, source size is ${from.size}) and can't be merged`,
          { path: this.#source.name, field: 'bitmap', detail: { errno: 'EINVAL' } },
        );
      }
      const bits = new DirtyBits(header.size, 2 ** entry.granularityBits, clusterSizeOf(header));
      for (const { offset, length } of from.ranges()) bits.set(offset, length);
      return this.#change.addBits(entry, bits);
    });
  }

  async #alter(name: string, work: (entry: BitmapEntry) => Promise<Partial<NewBitmapEntry>>): Promise<void> {
    const entry = usableBitmap(this.#source.name, this.#entries, name);
    const altered = newBitmapEntry({ ...entry, ...(await this.#change.step(() => work(entry))) });
    this.#become(this.#entries.map((other) => (other === entry ? altered : other)));
  }

  #become(entries: readonly BitmapEntry[]): void {
    this.#entries = entries;
    this.#changed = true;
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

/** The bitmap of that name; throws `not-found`, and `in-use` for an inconsistent one. */
export function usableBitmap(path: string, entries: readonly BitmapEntry[], name: string): BitmapEntry {
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
  if (!bitmapCovers(header.size, granularity)) {
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
