import { unitsOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { CheckOptions, CheckResult, Layer } from '../driver.ts';
import { sectorBytes } from './constants.ts';
import type { Extent } from './extent.ts';
import type { VmdkLayer } from './layer.ts';
import { metadataOf } from './metadata-map.ts';
import { readGrainMarker } from './packed-grain.ts';
import { entryAt, SparseExtent } from './sparse-extent.ts';

/**
 * Looks at every table of every sparse extent: grains must lie in the file, over no table, and apart from each other;
 * packed ones must say that they are what the table says; copies of tables should be equal. Nothing is repaired, as
 * in QEMU.
 */
export async function checkVmdk(layer: Layer, options: CheckOptions): Promise<CheckResult> {
  if ((options.repair ?? 'none') !== 'none') {
    throw new DiskError('unsupported', 'This image format does not support checks', {
      path: layer.source.name,
      field: 'check',
      detail: { format: layer.format },
    });
  }
  const { extents, size } = layer as VmdkLayer;
  const check = new Check(options, size);
  for (const extent of extents) {
    if (extent instanceof SparseExtent) await check.sparse(extent);
    else await check.other(extent);
  }
  const { corruptions, leaks } = check;
  return { corruptions, leaks, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0 };
}

/** Grains that are remembered by their sector, to find two of one place. */
class Sectors {
  #list = new Uint32Array(1024);
  #count = 0;

  add(sector: number): void {
    if (this.#count === this.#list.length) {
      const longer = new Uint32Array(this.#count * 2);
      longer.set(this.#list);
      this.#list = longer;
    }
    this.#list[this.#count++] = sector;
  }

  /** Sectors whose neighbour before is nearer than `apart` sectors. */
  *crowded(apart: number): Generator<number> {
    const sorted = this.#list.subarray(0, this.#count).sort();
    for (let index = 1; index < sorted.length; index++) {
      if (sorted[index] - sorted[index - 1] < apart) yield sorted[index];
    }
  }
}

class Check {
  corruptions = 0;
  leaks = 0;
  readonly #options: CheckOptions;
  readonly #total: number;

  constructor(options: CheckOptions, total: number) {
    this.#options = options;
    this.#total = total;
  }

  async sparse(extent: SparseExtent): Promise<void> {
    const { shape, directory, source, start } = extent;
    const { grainBytes, entries } = shape;
    const { metadata, copies, crossed } = await metadataOf(extent);
    if (crossed) this.#corrupt('a grain table lies over another table, or past the end of the file', start);
    const tableBytes = entries * 4;
    const table = new Uint8Array(tableBytes);
    const copy = new Uint8Array(tableBytes);
    const view = new DataView(table.buffer);
    const places = new Sectors();
    const grains = unitsOf(extent.end - start, grainBytes);
    // Of a table that the directory names again and again, the grains are remembered once.
    const walked = new Set<number>();
    for (let number = 0; number < directory.length && number * entries < grains; number++) {
      this.#options.signal?.throwIfAborted();
      const offset = start + number * entries * grainBytes;
      this.#options.onProgress?.(offset, this.#total);
      const at = directory[number] * sectorBytes;
      if (at === 0 || walked.has(at)) continue;
      walked.add(at);
      if (at + tableBytes > source.size) {
        this.#corrupt(`could not get cluster_offset for sector ${offset / sectorBytes}`, offset);
        continue;
      }
      await source.read(at, table);
      if (copies && !(await sameAs(extent, copies[number] * sectorBytes, table, copy))) {
        this.leaks++;
        this.#tell('leak', `The copy of grain table ${number} is out of date`, at);
      }
      for (let index = 0; index < entries && number * entries + index < grains; index++) {
        const entry = entryAt(view, index);
        if (entry === 0 || (shape.zeroGrains && entry === 1)) continue;
        const guest = offset + index * grainBytes;
        const place = entry * sectorBytes;
        if (place >= source.size) {
          this.#corrupt(`cluster offset for sector ${guest / sectorBytes} points after EOF`, guest);
        } else if (metadata.overlaps(place, place + (shape.compressed ? sectorBytes : grainBytes))) {
          this.#corrupt(`cluster offset for sector ${guest / sectorBytes} points into the tables`, guest);
        } else {
          places.add(entry);
          if (shape.markers) await this.#marker(extent, place, guest);
        }
      }
    }
    const apart = shape.compressed ? 1 : grainBytes / sectorBytes;
    for (const sector of places.crowded(apart)) {
      this.#corrupt(`two grains share sector ${sector} of '${source.name}'`, start);
    }
  }

  async #marker(extent: SparseExtent, place: number, guest: number): Promise<void> {
    const { source, start, shape } = extent;
    const bytes = new Uint8Array(sectorBytes);
    await source.read(place, bytes.subarray(0, Math.min(sectorBytes, source.size - place)));
    const { sector, size } = readGrainMarker(bytes);
    if (sector === (guest - start) / sectorBytes && size > 0 && size <= 2 * shape.grainBytes) return;
    this.#corrupt(`the grain of sector ${guest / sectorBytes} says that it is of sector ${sector}`, guest);
  }

  /** Extents of other kinds: what their maps name must be there. */
  async other(extent: Extent): Promise<void> {
    for (let at = extent.start; at < extent.end; ) {
      const run = extent.locate(at, extent.end - at);
      if (!run) {
        await extent.fault(at);
        continue;
      }
      if (run.kind === 'data' && run.at >= run.source.size) {
        this.#corrupt(`cluster offset for sector ${at / sectorBytes} points after EOF`, at);
      }
      at += run.length;
    }
  }

  #corrupt(message: string, offset: number): void {
    this.corruptions++;
    this.#tell('corruption', `ERROR: ${message}`, offset);
  }

  #tell(kind: 'leak' | 'corruption', message: string, offset: number): void {
    this.#options.onFinding?.({ kind, message, offset });
  }
}

async function sameAs(
  { source }: SparseExtent,
  at: number,
  table: Uint8Array,
  copy: Uint8Array,
): Promise<boolean> {
  if (at === 0 || at + copy.length > source.size) return false;
  await source.read(at, copy);
  for (let index = 0; index < copy.length; index++) if (copy[index] !== table[index]) return false;
  return true;
}
