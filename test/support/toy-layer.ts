import type {
  BackingReference,
  LayerDetails,
  Reservation,
  Run,
  WritableLayer,
} from '../../src/formats/driver.ts';
import { MemoryStore } from '../../src/storage/memory.ts';
import type { ByteStore } from '../../src/storage/store.ts';

type Grain = { kind: 'data'; at: number } | { kind: 'packed'; bytes: Uint8Array } | { kind: 'zero' };

export interface ToyOptions {
  readonly size: number;
  readonly grain?: number;
  readonly backing?: BackingReference;
  /** False: like qcow2 version 2, no mark for zeroes. */
  readonly canMarkZero?: boolean;
  /** Each table covers so many grains. */
  readonly tableGrains?: number;
  /** Tables resident at a time. Fewer than there are requests under way would evict each other for ever. */
  readonly residentTables?: number;
  /** Most grains that one reservation covers. */
  readonly reserveGrains?: number;
  readonly store?: ByteStore;
  /** False: reservations do not say that fresh space is zero, and it is not. */
  readonly zeroed?: boolean;
}

/**
 * The smallest format that does all that the engine must cope with: copy-on-write grains, packed grains, tables
 * that are not resident, short reservations, and fresh space full of rubbish.
 */
export class ToyLayer implements WritableLayer {
  readonly format = 'toy';
  readonly writable = true;
  readonly source: ByteStore;
  readonly grain: number;
  readonly backing?: BackingReference;
  size: number;
  faults = 0;
  flushes = 0;
  disposed = 0;
  unpacks = 0;
  /** Reservations given and not yet published or given back. */
  open = 0;
  givenBack = 0;
  readonly grains = new Map<number, Grain>();
  readonly #options: Required<
    Pick<ToyOptions, 'canMarkZero' | 'tableGrains' | 'residentTables' | 'reserveGrains' | 'zeroed'>
  >;
  /** Table numbers, oldest first. */
  readonly #resident: number[] = [];
  #end = 0;

  constructor(options: ToyOptions) {
    this.size = options.size;
    this.grain = options.grain ?? 4096;
    this.backing = options.backing;
    this.source = options.store ?? new MemoryStore({ name: 'toy' });
    this.#options = {
      canMarkZero: true,
      tableGrains: 8,
      residentTables: 1,
      reserveGrains: 4,
      zeroed: true,
      ...options,
    };
  }

  locate(offset: number, length: number): Run | undefined {
    const { tableGrains } = this.#options;
    const first = Math.floor(offset / this.grain);
    const table = Math.floor(first / tableGrains);
    if (!this.#resident.includes(table)) return undefined;
    const end = Math.min(offset + length, (table + 1) * tableGrains * this.grain);
    const grain = this.grains.get(first);
    const skip = offset - first * this.grain;
    let stop = Math.min(end, (first + 1) * this.grain);
    if (grain?.kind === 'packed') {
      const unpack = async () => {
        this.unpacks++;
        return grain.bytes;
      };
      return { kind: 'packed', offset, length: stop - offset, unpack, skip };
    }
    const kind = grain?.kind ?? 'hole';
    const base = grain?.kind === 'data' ? grain.at : 0;
    for (let index = first + 1; stop < end; index++) {
      const next = this.grains.get(index);
      if ((next?.kind ?? 'hole') !== kind) break;
      if (next?.kind === 'data' && next.at !== base + (index - first) * this.grain) break;
      stop = Math.min(end, (index + 1) * this.grain);
    }
    if (kind === 'data') return { kind, offset, length: stop - offset, source: this.source, at: base + skip };
    return { kind, offset, length: stop - offset };
  }

  async fault(offset: number): Promise<void> {
    await null;
    this.faults++;
    this.#resident.push(Math.floor(offset / this.grain / this.#options.tableGrains));
    if (this.#resident.length > this.#options.residentTables) this.#resident.shift();
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    await null;
    const first = Math.floor(offset / this.grain);
    const last = Math.ceil((offset + length) / this.grain);
    const found = this.grains.get(first);
    this.open++;
    if (found?.kind === 'data') {
      const stop = Math.min(offset + length, (first + 1) * this.grain);
      return this.#reservation(offset, stop - offset, found.at + (offset - first * this.grain), undefined);
    }
    let count = 1;
    while (count < this.#options.reserveGrains && first + count < last) {
      if (this.grains.get(first + count)?.kind === 'data') break;
      count++;
    }
    const at = this.#end;
    this.#end += count * this.grain;
    if (!this.#options.zeroed) await this.source.write(at, new Uint8Array(count * this.grain).fill(0xee));
    return this.#reservation(first * this.grain, count * this.grain, at, first);
  }

  #reservation(offset: number, length: number, at: number, first: number | undefined): Reservation {
    let done = false;
    return {
      offset,
      length,
      at,
      store: this.source,
      fresh: first !== undefined,
      zeroed: first !== undefined && this.#options.zeroed,
      publish: () => {
        done = true;
        this.open--;
        if (first === undefined) return;
        for (let index = 0; index < length / this.grain; index++) {
          this.grains.set(first + index, { kind: 'data', at: at + index * this.grain });
        }
      },
      [Symbol.asyncDispose]: async () => {
        if (done) return;
        this.open--;
        this.givenBack++;
      },
    };
  }

  async mark(kind: 'zero' | 'hole', offset: number, length: number): Promise<boolean> {
    const end = offset + length;
    if (offset % this.grain !== 0 || (end % this.grain !== 0 && end !== this.size)) {
      throw new Error(`mark of ${length} bytes at ${offset} is not aligned`);
    }
    if (kind === 'zero' && !this.#options.canMarkZero) return false;
    for (let index = offset / this.grain; index < Math.ceil(end / this.grain); index++) {
      if (kind === 'zero') this.grains.set(index, { kind: 'zero' });
      else this.grains.delete(index);
    }
    return true;
  }

  async pack(offset: number, bytes: Uint8Array): Promise<void> {
    this.grains.set(offset / this.grain, { kind: 'packed', bytes: bytes.slice() });
  }

  async resize(size: number): Promise<void> {
    for (const index of [...this.grains.keys()]) if (index * this.grain >= size) this.grains.delete(index);
    this.size = size;
  }

  async flush(): Promise<void> {
    this.flushes++;
    await this.source.flush();
  }

  async details(): Promise<LayerDetails> {
    return { clusterSize: this.grain };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.disposed++;
    await this.source[Symbol.asyncDispose]();
  }
}
