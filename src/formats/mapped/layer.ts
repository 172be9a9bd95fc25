import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { BackingReference, Layer, LayerDetails, Run } from '../driver.ts';
import { EntryMeaning, type GrainMap } from './grain-map.ts';

export interface MappedLayerOptions {
  readonly format: string;
  readonly map: GrainMap;
  /** Guest bytes. */
  readonly size: number;
  readonly backing?: BackingReference;
  readonly details: LayerDetails;
  /** Data may lie over holes of the file. */
  readonly mayBeSparse?: boolean;
  /** Unpacks a packed grain, given its host bytes. */
  unpack?(offset: number, length: number): Promise<Uint8Array>;
}

/** An image whose map has one entry a grain, open for reading. */
export class MappedLayer implements Layer {
  readonly format: string;
  readonly source: ByteSource;
  readonly grain: number;
  readonly map: GrainMap;
  size: number;
  backing: BackingReference | undefined;
  protected mayBeSparse: boolean;
  readonly #details: LayerDetails;
  readonly #unpack: MappedLayerOptions['unpack'];

  constructor(options: MappedLayerOptions) {
    this.format = options.format;
    this.map = options.map;
    this.source = options.map.source;
    this.grain = options.map.grain;
    this.size = options.size;
    this.backing = options.backing;
    this.mayBeSparse = options.mayBeSparse ?? false;
    this.#details = options.details;
    this.#unpack = options.unpack;
  }

  locate(offset: number, length: number): Run | undefined {
    const { map, grain } = this;
    const end = Math.min(offset + length, this.size);
    const tableIndex = Math.floor(offset / map.span);
    if (map.places.at(tableIndex) === 0 && !map.tables.get(tableIndex)) {
      const next = map.places.next(tableIndex + 1, Math.ceil(end / map.span));
      return { offset, length: Math.min(end, next * map.span) - offset, kind: 'hole' };
    }
    const table = map.tables.get(tableIndex);
    if (!table) return undefined;
    const start = tableIndex * map.span;
    const first = Math.floor((offset - start) / grain);
    const skip = offset - start - first * grain;
    const value = map.entry(table, first);
    if (value === EntryMeaning.packed) {
      const { entryBytes, packed } = map.encoding;
      const place = packed!(table.view, first * entryBytes);
      return {
        offset,
        length: Math.min(end - offset, grain - skip),
        kind: 'packed',
        unpack: () => this.unpack(place.offset, place.length),
        skip,
      };
    }
    const stop = Math.min(map.perTable, Math.ceil((end - start) / grain));
    const last = map.countRun(table, first, stop, value);
    const runLength = Math.min(end, start + last * grain) - offset;
    if (value === EntryMeaning.hole) return { offset, length: runLength, kind: 'hole' };
    if (value === EntryMeaning.zero) return { offset, length: runLength, kind: 'zero' };
    const { source, mayBeSparse } = this;
    return { offset, length: runLength, kind: 'data', source, at: value + skip, mayBeSparse };
  }

  async fault(offset: number): Promise<void> {
    await this.map.fault(Math.floor(offset / this.map.span));
  }

  protected unpack(offset: number, length: number): Promise<Uint8Array> {
    if (this.#unpack) return this.#unpack(offset, length);
    throw new DiskError('unsupported', `${this.format} has no packed grains`, { path: this.source.name });
  }

  async details(): Promise<LayerDetails> {
    return this.#details;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}
