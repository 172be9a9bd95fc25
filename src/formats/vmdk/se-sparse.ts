import { readU64LE, viewOf } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { Run } from '../driver.ts';
import { sectorBytes } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';
import type { Extent } from './extent.ts';
import { GrainTables } from './grain-tables.ts';

/** ESXi's space-efficient sparse extent, as far as reading it goes. Bytes. */
export interface SeSparseHeader {
  readonly capacity: number;
  readonly volatileAt: number;
  readonly directoryAt: number;
  readonly directoryEntries: number;
  readonly tablesAt: number;
  readonly grainsAt: number;
}

const constMagic = 0xcafebabe;
const volatileMagic = 0xcafecafe;
const grainBytes = 4096;
const entries = 4096;
const tableBytes = entries * 8;
const maxDirectory = 32 * 1024 * 1024;
/** Of the part of the directory that is needed: of disks of 128 TiB, twice VMware's largest. */
const maxNeededBytes = 64 << 20;
const two32 = 0x1_0000_0000;

/** Throws `corrupt` and `unsupported` in QEMU's words. */
function parseSeSparseHeader(bytes: Uint8Array, path: string): SeSparseHeader {
  const view = viewOf(bytes);
  const hex = (at: number) => `0x${view.getBigUint64(at, true).toString(16).padStart(16, '0')}`;
  const number = (at: number, field: string) => {
    const value = readU64LE(view, at, field);
    if (Number.isSafeInteger(value * sectorBytes)) return value;
    throw corrupt(path, field, `${field} lies past 2^53 bytes`);
  };
  if (bytes.length < sectorBytes || view.getUint32(0, true) !== constMagic || view.getUint32(4, true) !== 0) {
    const found = bytes.length < 8 ? 'none' : hex(0);
    throw corrupt(path, 'magic', `Bad const header magic: ${found}`, { errno: 'EINVAL' });
  }
  if (view.getUint32(8, true) !== 1 || view.getUint32(12, true) !== 2) {
    throw unsupported(path, 'version', `Unsupported version: ${hex(8)}`);
  }
  const grainSectors = number(24, 'grain size');
  if (grainSectors !== grainBytes / sectorBytes) {
    throw unsupported(path, 'grain size', `Unsupported grain size: ${grainSectors}`);
  }
  const tableSectors = number(32, 'grain table size');
  if (tableSectors !== tableBytes / sectorBytes) {
    throw unsupported(path, 'grain table size', `Unsupported grain table size: ${tableSectors}`);
  }
  if (bytes.subarray(40, 48).some(Boolean)) throw unsupported(path, 'flags', `Unsupported flags: ${hex(40)}`);
  if (bytes.subarray(48, 80).some(Boolean)) {
    throw unsupported(path, 'reserved', `Unsupported reserved bits: ${[48, 56, 64, 72].map(hex).join(' ')}`);
  }
  if (bytes.subarray(208).some(Boolean)) {
    throw unsupported(path, 'padding', 'Unsupported non-zero const header padding');
  }
  const directoryEntries = (number(136, 'grain directory size') * sectorBytes) / 8;
  if (directoryEntries > maxDirectory)
    throw corrupt(path, 'grain directory size', 'L1 size too big', { errno: 'EFBIG' });
  const capacity = number(16, 'capacity') * sectorBytes;
  if (directoryEntries * entries * grainBytes < capacity) {
    throw corrupt(path, 'grain directory size', 'The grain directory is shorter than the disk');
  }
  return {
    capacity,
    volatileAt: number(80, 'volatile header offset') * sectorBytes,
    directoryAt: number(128, 'grain directory offset') * sectorBytes,
    directoryEntries,
    tablesAt: number(144, 'grain tables offset') * sectorBytes,
    grainsAt: number(192, 'grains offset') * sectorBytes,
  };
}

/** The header that changes: refuses an extent whose journal would have to be replayed. */
function checkVolatileHeader(bytes: Uint8Array, path: string): void {
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== volatileMagic || view.getUint32(4, true) !== 0) {
    const found = `0x${view.getBigUint64(0, true).toString(16).padStart(16, '0')}`;
    throw corrupt(path, 'volatile header', `Bad volatile header magic: ${found}`, { errno: 'EINVAL' });
  }
  if (bytes.subarray(24, 32).some(Boolean)) {
    throw unsupported(path, 'replay journal', 'Image is dirty, Replaying journal not supported');
  }
  if (bytes.subarray(32).some(Boolean)) {
    throw unsupported(path, 'padding', 'Unsupported non-zero volatile header padding');
  }
}

interface SeSparsePlace {
  readonly start: number;
  readonly end: number;
  readonly type: string;
  /** How many extents the image has. */
  readonly sharers: number;
}

/** Guest bytes in an seSparse extent: 64-bit entries, of which the top four bits say what they are. */
export class SeSparseExtent implements Extent {
  readonly start: number;
  readonly end: number;
  readonly type: string;
  readonly source: ByteSource;
  readonly grain = grainBytes;
  readonly compressed = false;
  readonly #header: SeSparseHeader;
  /** Halves of the directory's entries. */
  readonly #directory: DataView;
  readonly #tables: GrainTables;

  private constructor(source: ByteSource, header: SeSparseHeader, directory: DataView, place: SeSparsePlace) {
    this.source = source;
    this.#header = header;
    this.#directory = directory;
    this.start = place.start;
    this.end = place.end;
    this.type = place.type;
    this.#tables = new GrainTables(source, tableBytes, place.sharers);
  }

  static async open(source: ByteSource, place: SeSparsePlace): Promise<SeSparseExtent> {
    const header = parseSeSparseHeader(await readSector(source, 0), source.name);
    if (header.capacity < place.end - place.start) {
      throw corrupt(source.name, 'capacity', 'The extent is shorter than its descriptor says');
    }
    checkVolatileHeader(await readSector(source, header.volatileAt), source.name);
    const needed = Math.ceil((place.end - place.start) / (entries * grainBytes)) * 8;
    if (needed > maxNeededBytes) {
      throw unsupported(source.name, 'capacity', `Grain directories of ${needed} bytes are not supported`);
    }
    if (header.directoryAt + needed > source.size) {
      throw corrupt(source.name, 'grain directory', `Could not read l1 table from extent '${source.name}'`);
    }
    const directory = new Uint8Array(needed);
    if (needed > 0) await source.read(header.directoryAt, directory);
    return new SeSparseExtent(source, header, viewOf(directory), place);
  }

  get directoryBytes(): number {
    return this.#directory.byteLength;
  }

  locate(offset: number, length: number): Run | undefined {
    const first = Math.floor((offset - this.start) / grainBytes);
    const skip = (offset - this.start) % grainBytes;
    const number = Math.floor(first / entries);
    const stop = Math.min((number + 1) * entries, Math.ceil((offset - this.start + length) / grainBytes));
    const cut = (index: number) => Math.min(length, (index - first) * grainBytes - skip);
    if (this.#tableAt(number) === 0) return { kind: 'hole', offset, length: cut(stop) };
    const table = this.#tables.get(number);
    if (!table) return undefined;
    const base = number * entries;
    const { kind, at } = this.#grainAt(table.view, first - base);
    let index = first + 1;
    while (index < stop) {
      const next = this.#grainAt(table.view, index - base);
      if (next.kind !== kind || (kind === 'data' && next.at !== at + (index - first) * grainBytes)) break;
      index++;
    }
    const run = { offset, length: cut(index) };
    return kind === 'data' ? { kind, ...run, source: this.source, at: at + skip } : { kind, ...run };
  }

  async fault(offset: number): Promise<void> {
    const number = Math.floor((offset - this.start) / (grainBytes * entries));
    const at = this.#tableAt(number);
    if (at !== 0) await this.#tables.load(number, at);
  }

  /** Byte offset of a table, 0 for none. */
  #tableAt(number: number): number {
    const low = this.#directory.getUint32(number * 8, true);
    const high = this.#directory.getUint32(number * 8 + 4, true);
    if (low === 0 && high === 0) return 0;
    if (high === 0x1000_0000) return this.#header.tablesAt + low * tableBytes;
    throw corrupt(
      this.source.name,
      'grain directory',
      `Entry ${number} of the grain directory is of no kind`,
    );
  }

  #grainAt(view: DataView, index: number): { readonly kind: 'hole' | 'zero' | 'data'; readonly at: number } {
    const low = view.getUint32(index * 8, true);
    const high = view.getUint32(index * 8 + 4, true);
    const top = high >>> 28;
    if (low === 0 && high === 0) return { kind: 'hole', at: 0 };
    if (top === 1 || top === 2) return { kind: 'zero', at: 0 };
    if (top !== 3)
      throw corrupt(this.source.name, 'grain table', `Entry ${index} of a grain table is of no kind`);
    // The grain's number has its low 12 bits in bits 48 to 59, and the rest below them.
    const number = ((high % 0x1_0000) * two32 + low) * 4096 + ((high >>> 16) & 0xfff);
    const at = this.#header.grainsAt + number * grainBytes;
    if (!Number.isSafeInteger(at))
      throw corrupt(this.source.name, 'grain table', 'A grain lies past 2^53 bytes');
    return { kind: 'data', at };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}

async function readSector(source: ByteSource, at: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(sectorBytes);
  if (at + sectorBytes > source.size) {
    throw corrupt(source.name, 'header', `Could not read header from file '${source.name}'`);
  }
  await source.read(at, bytes);
  return bytes;
}
