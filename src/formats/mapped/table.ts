/**
 * A table of one cluster in memory (an L2 table or a refcount block), as its bytes on disk: big-endian, read
 * through a DataView, so that loading and storing never converts.
 */
export class Table {
  /** L1 index or refcount table index. */
  readonly index: number;
  /** Host offset of the cluster. */
  at: number;
  bytes: Uint8Array;
  view: DataView;
  /** Tick of the last use. */
  used = 0;
  /** How many reservations will still write into it. */
  pins = 0;
  /** The changed bytes, from `dirtyFrom` to `dirtyTo`; empty when they are equal or crossed. */
  dirtyFrom = Number.POSITIVE_INFINITY;
  dirtyTo = 0;
  /** A flush is writing `bytes` just now: whoever changes the table takes a copy first. */
  frozen = false;

  constructor(index: number, at: number, bytes: Uint8Array) {
    this.index = index;
    this.at = at;
    this.bytes = bytes;
    this.view = viewOf(bytes);
  }

  get dirty(): boolean {
    return this.dirtyFrom < this.dirtyTo;
  }

  get evictable(): boolean {
    return this.pins === 0 && !this.frozen && !this.dirty;
  }
}

/** Bytes of a table that a flush has taken to write. */
export interface FrozenTable {
  readonly table: Table;
  readonly bytes: Uint8Array;
  readonly from: number;
  readonly to: number;
}

/**
 * Tables by index within a budget of bytes, least recently used ones dropped first. Dirty, pinned and frozen
 * tables stay whatever the budget; the owner flushes when `dirtyBytes` grows.
 */
export class TableCache {
  readonly #tables = new Map<number, Table>();
  readonly #dirty = new Set<Table>();
  /** Buffers of dropped tables, used again: large ones are costly to collect. */
  readonly #spare: Uint8Array[] = [];
  readonly #clusterSize: number;
  readonly #budget: number;
  #tick = 0;

  constructor(clusterSize: number, budgetBytes: number) {
    this.#clusterSize = clusterSize;
    this.#budget = Math.max(2, Math.floor(budgetBytes / (clusterSize + tableOverhead)));
  }

  get dirtyBytes(): number {
    return this.#dirty.size * (this.#clusterSize + tableOverhead);
  }

  /** Bytes that may stay in memory. */
  get budgetBytes(): number {
    return this.#budget * (this.#clusterSize + tableOverhead);
  }

  get size(): number {
    return this.#tables.size;
  }

  /** Somebody has space that a table is yet to name. */
  get pinned(): boolean {
    for (const { pins } of this.#tables.values()) if (pins > 0) return true;
    return false;
  }

  /** The resident table, marked as used. */
  get(index: number): Table | undefined {
    const table = this.#tables.get(index);
    if (table) table.used = ++this.#tick;
    return table;
  }

  /** A buffer of one cluster, of any content. */
  takeBuffer(): Uint8Array {
    return this.#spare.pop() ?? new Uint8Array(this.#clusterSize);
  }

  add(table: Table): void {
    table.used = ++this.#tick;
    this.#tables.set(table.index, table);
    if (this.#tables.size > this.#budget) this.#evict();
  }

  clear(): void {
    this.#tables.clear();
    this.#dirty.clear();
  }

  remove(index: number): void {
    const table = this.#tables.get(index);
    if (!table) return;
    this.#tables.delete(index);
    this.#dirty.delete(table);
  }

  /** To be called before bytes [from, to) of a table are changed, through the `view` that it then has. */
  change(table: Table, from: number, to: number): void {
    if (table.frozen) {
      table.bytes = table.bytes.slice();
      table.view = viewOf(table.bytes);
      table.frozen = false;
    }
    this.#markDirty(table, from, to);
  }

  /** The dirty tables, which count as clean from now on; their bytes stay as they are until `thaw`. */
  freeze(): FrozenTable[] {
    const frozen: FrozenTable[] = [];
    for (const table of this.#dirty) {
      frozen.push({ table, bytes: table.bytes, from: table.dirtyFrom, to: table.dirtyTo });
      table.frozen = true;
      table.dirtyFrom = Number.POSITIVE_INFINITY;
      table.dirtyTo = 0;
    }
    this.#dirty.clear();
    return frozen;
  }

  /** Ends a freeze. `written` false: the write failed, so the tables are dirty again. */
  thaw(frozen: readonly FrozenTable[], written: boolean): void {
    for (const { table, bytes, from, to } of frozen) {
      if (table.bytes === bytes) table.frozen = false;
      if (!written && this.#tables.get(table.index) === table) this.#markDirty(table, from, to);
    }
    if (this.#tables.size > this.#budget) this.#evict();
  }

  #markDirty(table: Table, from: number, to: number): void {
    if (!table.dirty) this.#dirty.add(table);
    if (from < table.dirtyFrom) table.dirtyFrom = from;
    if (to > table.dirtyTo) table.dirtyTo = to;
  }

  /** Drops the least recently used eighth at once, so that the sort is paid for. */
  #evict(): void {
    const droppable = [...this.#tables.values()].filter((table) => table.evictable);
    droppable.sort((a, b) => a.used - b.used);
    const surplus = this.#tables.size - Math.max(1, Math.floor((this.#budget * 7) / 8));
    for (const table of droppable.slice(0, Math.min(surplus, droppable.length - 1))) {
      this.#tables.delete(table.index);
      // With those that stay never more than the budget and one.
      if (this.#tables.size + this.#spare.length <= this.#budget) this.#spare.push(table.bytes);
    }
  }
}

/** Bytes that an object for a table takes beside its content, roughly; it counts for clusters of 512 bytes. */
const tableOverhead = 512;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
