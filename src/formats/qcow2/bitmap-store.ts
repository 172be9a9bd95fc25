import { isZero } from '../../bytes/zero.ts';
import { isDiskError } from '../../errors.ts';
import type { BitmapPart, DirtyBits } from './bitmap-bits.ts';
import {
  type BitmapEntry,
  encodeBitmapDirectory,
  flagInUse,
  type NewBitmapEntry,
  readBitmapDirectory,
} from './bitmap-directory.ts';
import { allOnes, allZeroes, encodeBitmapTable, readBitmapTable, readPart } from './bitmap-table.ts';
import { Autoclear, ExtensionType, entryBytes } from './constants.ts';
import { bitmapsOf, withExtension } from './extensions.ts';
import { flushImage } from './flush.ts';
import type { ClusterRun } from './refcounts.ts';
import type { Qcow2Writer } from './writer.ts';

/*
 * Bitmaps change as the map does: what is new is laid into free space (data, table, a whole new directory), and one
 * write of the header's first sector switches to the new directory (rule 4 of flush.ts). What the old one alone
 * named is freed after that.
 */

/** A change of the bitmaps under way: clusters taken for it, and those that nobody names when it is done. */
export class BitmapChange {
  readonly #writer: Qcow2Writer;
  readonly #taken: ClusterRun[] = [];
  readonly #dropped: ClusterRun[] = [];

  constructor(writer: Qcow2Writer) {
    this.#writer = writer;
  }

  /** Writes bytes into new clusters that follow one another; gives the host offset. */
  async write(bytes: Uint8Array): Promise<number> {
    const { refcounts, mapping, store } = this.#writer;
    const { clusterSize } = mapping.geometry;
    const count = Math.ceil(bytes.length / clusterSize);
    const first = await refcounts.allocateContiguous(count);
    this.#taken.push({ first, count });
    const whole = bytes.length === count * clusterSize ? bytes : new Uint8Array(count * clusterSize);
    if (whole !== bytes) whole.set(bytes);
    await store.write(first * clusterSize, whole);
    return first * clusterSize;
  }

  async writeTable(table: readonly number[]): Promise<Pick<NewBitmapEntry, 'tableOffset' | 'tableSize'>> {
    // A disk without a byte has a table all the same: none at all is an error.
    const entries = table.length === 0 ? [allZeroes] : table;
    return { tableOffset: await this.write(encodeBitmapTable(entries)), tableSize: entries.length };
  }

  /** The bytes at a host offset are not needed any more. */
  drop(at: number, length: number): void {
    const { clusterSize } = this.#writer.mapping.geometry;
    this.#dropped.push({ first: at / clusterSize, count: Math.ceil(length / clusterSize) });
  }

  /** Neither the table of a bitmap is needed any more, nor its data. */
  async dropBitmap(entry: BitmapEntry): Promise<void> {
    const { store, header, mapping } = this.#writer;
    let table: readonly number[] = [];
    try {
      table = await readBitmapTable(store, header, entry);
    } catch (error) {
      // A table that cannot be true names nothing that could be given back.
      if (!isDiskError(error, 'corrupt')) throw error;
      return;
    }
    for (const value of table) if (value > allOnes) this.drop(value, mapping.geometry.clusterSize);
    this.drop(entry.tableOffset, entry.tableSize * entryBytes);
  }

  /**
   * Adds bits to those that are stored, of which the ones of guest bytes before `kept` count (the disk was not larger
   * than that in between). The table is written anew.
   */
  async addBits(
    entry: BitmapEntry,
    bits: DirtyBits,
    kept = bits.size,
  ): Promise<Pick<NewBitmapEntry, 'tableOffset' | 'tableSize'>> {
    const { store, header } = this.#writer;
    const old = await readBitmapTable(store, header, entry);
    const keptBits = Math.ceil(kept / bits.granularity);
    const table: number[] = [];
    for (let index = 0; index < Math.max(old.length, bits.partCount); index++) {
      const value = old[index] ?? allZeroes;
      const there = Math.max(0, Math.min(bits.partBits, keptBits - index * bits.partBits));
      const whole =
        there === bits.partBits || (index === bits.partCount - 1 && kept === bits.size && value === allOnes);
      const added = index < bits.partCount ? bits.part(index) : undefined;
      if (!added && (whole || value === allZeroes)) {
        if (index < bits.partCount) table.push(value);
        else if (value > allOnes) this.drop(value, bits.partBytes);
        continue;
      }
      if (value > allOnes) this.drop(value, bits.partBytes);
      if (index >= bits.partCount) continue;
      table.push(added === 'ones' ? allOnes : await this.#merge(value, there, added, bits.partBytes));
    }
    this.drop(entry.tableOffset, entry.tableSize * entryBytes);
    return this.writeTable(table);
  }

  /** The first `there` bits of a stored part, and those added to them, in new space. */
  async #merge(
    value: number,
    there: number,
    added: Exclude<BitmapPart, 'ones'> | undefined,
    partBytes: number,
  ): Promise<number> {
    const bytes = new Uint8Array(partBytes);
    if (value === allOnes) bytes.fill(0xff);
    else if (value !== allZeroes) await readPart(this.#writer.store, value, bytes);
    clearFrom(bytes, there);
    if (added) for (let at = 0; at < partBytes; at++) bytes[at] |= added[at];
    return isZero(bytes) ? allZeroes : this.write(bytes);
  }

  /** Runs a part of the change; where it fails, what it took is given back, and what it dropped is still needed. */
  async step<Result>(work: () => Promise<Result>): Promise<Result> {
    const [taken, dropped] = [this.#taken.length, this.#dropped.length];
    try {
      return await work();
    } catch (error) {
      this.#dropped.length = dropped;
      await this.#release(this.#taken.splice(taken));
      throw error;
    }
  }

  /** Makes these the image's bitmaps, durably. */
  async commit(entries: readonly NewBitmapEntry[]): Promise<void> {
    const writer = this.#writer;
    const old = bitmapsOf(writer.header);
    const directory = encodeBitmapDirectory(entries);
    const at = entries.length === 0 ? 0 : await this.write(directory);
    await flushImage(writer);
    const { header } = writer;
    const autoclear = header.autoclearFeatures & ~Autoclear.bitmaps;
    const extension =
      entries.length === 0 ? undefined : encodeExtension(entries.length, directory.length, at);
    await writer.replaceHeader({
      ...header,
      autoclearFeatures: entries.length === 0 ? autoclear : autoclear | Autoclear.bitmaps,
      extensions: withExtension(header.extensions, ExtensionType.bitmaps, extension),
    });
    this.#taken.length = 0;
    if (old) this.drop(old.directoryOffset, old.directorySize);
    writer.guardBitmaps(entries);
    for (const { first, count } of this.#dropped) writer.frees.add(first, count, true);
    await flushImage(writer);
  }

  /** Gives back what was taken for a change that has not happened. */
  async abandon(): Promise<void> {
    try {
      await this.#writer.settleHeader();
    } catch {
      // What was taken may be in use then.
      return;
    }
    await this.#release(this.#taken);
  }

  async #release(runs: readonly ClusterRun[]): Promise<void> {
    try {
      for (const { first, count } of runs) await this.#writer.refcounts.release(first, count);
    } catch {
      // Then the space is leaked; the error that led here matters more.
    }
  }
}

/** Runs a change, and gives its space back where it fails. */
export async function changeBitmaps(
  writer: Qcow2Writer,
  work: (change: BitmapChange, entries: readonly BitmapEntry[]) => Promise<readonly NewBitmapEntry[]>,
): Promise<void> {
  const change = new BitmapChange(writer);
  try {
    const entries = await readBitmapDirectory(writer.store, writer.header);
    await change.commit(await work(change, entries));
  } catch (error) {
    await change.abandon();
    throw error;
  }
}

/** Sets or clears the in-use flag of some bitmaps where the directory lies, durably. Each is there or not. */
export async function flagInPlace(
  writer: Qcow2Writer,
  entries: readonly BitmapEntry[],
  inUse: (entry: BitmapEntry) => boolean,
): Promise<void> {
  const { directoryOffset } = bitmapsOf(writer.header)!;
  const flagged = entries.map((entry) => ({
    ...entry,
    flags: inUse(entry) ? entry.flags | flagInUse : entry.flags & ~flagInUse,
  }));
  await writer.store.write(directoryOffset, encodeBitmapDirectory(flagged));
  await writer.store.flush();
}

/** Clears the bits from `bit` on. */
function clearFrom(bytes: Uint8Array, bit: number): void {
  const at = bit >>> 3;
  if (at >= bytes.length) return;
  bytes[at] &= (1 << (bit & 7)) - 1;
  bytes.fill(0, at + 1);
}

function encodeExtension(count: number, directorySize: number, directoryOffset: number): Uint8Array {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, count);
  view.setBigUint64(8, BigInt(directorySize));
  view.setBigUint64(16, BigInt(directoryOffset));
  return bytes;
}
