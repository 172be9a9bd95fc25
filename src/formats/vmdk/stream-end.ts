import { alignUp, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import { isZero } from '../../bytes/zero.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { FrozenTable } from '../mapped/table.ts';
import { Marker, sectorBytes } from './constants.ts';
import { encodeSparseHeader, type SparseHeader } from './header.ts';
import type { SparseExtent } from './sparse-extent.ts';
import type { SparseWriter } from './sparse-writer.ts';

/*
 * A stream ("Stream-optimized compressed sparse extents") can be read from its start to its end: grains, each table
 * behind the grains that it names, the directory, and a footer that says where the directory is. The header says only
 * that there is a footer.
 *
 * While it is written, a cut would leave it without one. So before the first change the header is made to name the
 * directory that holds until then: the one before the footer, or for an empty disk the zeroes in front of the first
 * grain. A flush writes changed tables and a new directory behind everything, and then one sector, the header. Closing
 * adds the footer, durably, before the header points to it again.
 */

/** The tables and the end of a stream that is open for writing. */
export class StreamEnd {
  readonly #store: ByteStore;
  #header: SparseHeader;
  /** Where the directory lies that holds now. */
  #directoryAt: number;
  /** A table was written since the directory was. */
  #stale = false;
  /** The furthest table that grains were put into. */
  #table = 0;

  /** `directoryAt`: where the footer, or else the header, says. */
  constructor(store: ByteStore, header: SparseHeader, directoryAt: number) {
    this.#store = store;
    this.#header = header;
    this.#directoryAt = directoryAt;
  }

  /** Makes the header name the directory. Answers where the next grain goes. */
  async begin(extent: SparseExtent): Promise<number> {
    const store = this.#store;
    if (this.#header.directoryAt !== undefined) return alignUp(store.size, sectorBytes);
    const bytes = alignUp(extent.directory.length * 4, sectorBytes);
    const { descriptorAt, descriptorBytes, overhead } = this.#header;
    const spare = descriptorAt + descriptorBytes;
    let end = this.#directoryAt + bytes;
    if (
      extent.directory.every((at) => at === 0) &&
      spare + bytes <= overhead &&
      (await this.#isZero(spare, bytes))
    ) {
      this.#directoryAt = spare;
      end = alignUp(overhead, sectorBytes);
    } else if (end + 3 * sectorBytes !== store.size) end = alignUp(store.size, sectorBytes);
    await this.#writeHeader(this.#directoryAt);
    await store.resize(end);
    return end;
  }

  /** Told before a grain is put into a table: those that are done with are written behind their grains. */
  async leave(writer: SparseWriter, number: number): Promise<void> {
    if (number <= this.#table) return;
    this.#table = number;
    const { cache } = writer.extent.tables;
    const frozen = cache.freeze();
    try {
      await this.#append(writer, frozen);
      cache.thaw(frozen, true);
    } catch (error) {
      cache.thaw(frozen, false);
      throw error;
    }
  }

  /** Writes tables, and a directory that names them, durably. The data is durable already. */
  async writeTables(writer: SparseWriter, frozen: readonly FrozenTable[]): Promise<void> {
    await this.#append(writer, frozen);
    if (!this.#stale) return;
    const { directory } = writer.extent;
    const bytes = new Uint8Array(alignUp(directory.length * 4, sectorBytes));
    const view = viewOf(bytes);
    for (const [index, sector] of directory.entries()) view.setUint32(index * 4, sector, true);
    const at = await this.#put(writer, Marker.grainDirectory, bytes);
    await this.#store.flush();
    await this.#writeHeader(at);
    this.#directoryAt = at;
    this.#stale = false;
  }

  /** Adds the footer. Everything is durable already. */
  async finish(writer: SparseWriter): Promise<void> {
    const footer = encodeSparseHeader({ ...this.#header, directoryAt: this.#directoryAt });
    await this.#put(writer, Marker.footer, footer);
    const at = writer.allocate(sectorBytes);
    await this.#store.write(at, marker(Marker.endOfStream, 0));
    await this.#store.resize(writer.end);
    await this.#store.flush();
    await this.#writeHeader(undefined);
  }

  async #append(writer: SparseWriter, frozen: readonly FrozenTable[]): Promise<void> {
    for (const { table, bytes } of frozen) {
      table.at = await this.#put(writer, Marker.grainTable, bytes);
      writer.extent.directory[table.index] = table.at / sectorBytes;
      this.#stale = true;
    }
  }

  /** Writes what a marker announces; answers where it lies. */
  async #put(writer: SparseWriter, kind: number, content: Uint8Array): Promise<number> {
    const length = alignUp(content.length, sectorBytes);
    const bytes = new Uint8Array(sectorBytes + length);
    bytes.set(marker(kind, length / sectorBytes));
    bytes.set(content, sectorBytes);
    const at = writer.allocate(bytes.length);
    await this.#store.write(at, bytes);
    return at + sectorBytes;
  }

  async #writeHeader(directoryAt: number | undefined): Promise<void> {
    this.#header = { ...this.#header, directoryAt };
    await this.#store.write(0, encodeSparseHeader(this.#header));
    await this.#store.flush();
  }

  async #isZero(at: number, length: number): Promise<boolean> {
    const bytes = new Uint8Array(length);
    await this.#store.read(at, bytes);
    return isZero(bytes);
  }
}

/** The sector that announces `sectors` sectors of a kind. */
export function marker(kind: number, sectors: number): Uint8Array {
  const bytes = new Uint8Array(sectorBytes);
  const view = viewOf(bytes);
  writeU64LE(view, 0, sectors);
  view.setUint32(12, kind, true);
  return bytes;
}
