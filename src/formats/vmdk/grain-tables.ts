import { SparseBits } from '../../bytes/sparse-bits.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import { scanTable } from '../mapped/scan-table.ts';
import { Table, TableCache } from '../mapped/table.ts';
import { corrupt } from './errors.ts';

/** Bytes of grain tables that stay in memory, for all extents; but at least so many tables of each. */
const cacheBytes = 16 * 1024 * 1024;
const leastTables = 32;
/** What a table costs beside its bytes in the cache's account. */
const overheadBytes = 512;

/** Grain tables of one extent in memory, loaded by number. */
export class GrainTables {
  readonly cache: TableCache;
  readonly tableBytes: number;
  /** For a writer: looks at each table as the file had it when it was opened. What it throws, loading throws. */
  vet?: (table: Table) => void;
  /** Tables that were looked at, or made here. */
  readonly #vetted = new SparseBits();
  readonly #source: ByteSource;
  readonly #loading = new Map<number, Promise<Table>>();

  /** `sharers`: how many extents the image has. */
  constructor(source: ByteSource, tableBytes: number, sharers: number) {
    this.#source = source;
    this.tableBytes = tableBytes;
    const least = leastTables * (tableBytes + overheadBytes);
    this.cache = new TableCache(tableBytes, Math.max(cacheBytes / sharers, least));
  }

  get(index: number): Table | undefined {
    return this.cache.get(index);
  }

  /** The table of that number, which lies at `at`. Throws `corrupt` where the file has no room for it. */
  load(index: number, at: number): Promise<Table> {
    const loaded = this.cache.get(index);
    if (loaded) return Promise.resolve(loaded);
    let loading = this.#loading.get(index);
    if (!loading) {
      loading = this.#read(index, at).finally(() => this.#loading.delete(index));
      this.#loading.set(index, loading);
    }
    return loading;
  }

  /** A table that is on no disk yet. */
  add(index: number, at: number): Table {
    const table = new Table(index, at, new Uint8Array(this.tableBytes));
    this.#vetted.add(index);
    this.cache.add(table);
    return table;
  }

  async #read(index: number, at: number): Promise<Table> {
    const { size, name } = this.#source;
    if (at + this.tableBytes > size) {
      throw corrupt(name, 'grain directory', `Grain table ${index} lies past the end of the file`, {
        at,
        size,
      });
    }
    const bytes = this.cache.takeBuffer();
    this.#source.debugEvent?.('l2_load');
    await this.#source.read(at, bytes);
    const table = new Table(index, at, bytes);
    if (this.vet && !this.#vetted.has(index)) {
      this.vet(table);
      this.#vetted.add(index);
    }
    this.cache.add(table);
    return table;
  }
}

/** Reads a directory of `count` numbers. Throws `corrupt` where the file does not hold it. */
export async function readDirectory(
  source: ByteSource,
  at: number,
  count: number,
  field: string,
): Promise<Uint32Array> {
  if (at + count * 4 > source.size) {
    throw new DiskError(
      'corrupt',
      `Could not read l1 table from extent '${source.name}': it lies past the end`,
      {
        path: source.name,
        offset: at,
        field,
        detail: { errno: 'EIO', size: source.size },
      },
    );
  }
  const directory = new Uint32Array(count);
  for await (const { first, count: here, view } of scanTable(source, {
    at,
    entryBytes: 4,
    entries: count,
    field,
  })) {
    for (let index = 0; index < here; index++) directory[first + index] = view.getUint32(index * 4, true);
  }
  return directory;
}
