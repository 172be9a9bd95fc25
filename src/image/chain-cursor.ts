import { DiskError } from '../errors.ts';
import type { Layer, Run } from '../formats/driver.ts';

/**
 * Walks a chain of layers (the image itself first) and says, synchronously, where guest bytes lie.
 *
 * It remembers how far each upper layer is silent, so that a walk costs one look-up a run and not one a run and
 * layer. That memory holds as long as nobody changes the top layer's map: `restart` drops it.
 */
export class ChainCursor {
  readonly #layers: readonly Layer[];
  /** Reading takes flat layers as they lie; mapping asks them for their holes. */
  readonly #reading: boolean;
  /** By layer above `#level`: where the hole ends that the walk is in. Never rising with depth. */
  readonly #holeEnds: number[];
  #level = 0;
  #depth = 0;

  constructor(layers: readonly Layer[], purpose: 'read' | 'map') {
    this.#layers = layers;
    this.#reading = purpose === 'read';
    this.#holeEnds = layers.map(() => 0);
  }

  /** Which layer gave the last run. */
  get depth(): number {
    return this.#depth;
  }

  /** The layer whose table was missing when `next` answered undefined: `await faulting.fault(offset)`. */
  get faulting(): Layer {
    return this.#layers[this.#level];
  }

  restart(): void {
    this.#level = 0;
  }

  /**
   * The run that begins at `offset` and ends at or before `end`; a hole in every layer stays a hole, of the
   * layer where the chain ends for it. Undefined: a table is not resident.
   */
  next(offset: number, end: number): Run | undefined {
    while (this.#level > 0 && this.#holeEnds[this.#level - 1] <= offset) this.#level--;
    for (;;) {
      const layer = this.#layers[this.#level];
      let limit = this.#level > 0 ? Math.min(end, this.#holeEnds[this.#level - 1]) : end;
      if (this.#level > 0 && offset >= layer.size) {
        // The backing image is shorter than the one above it.
        this.#depth = this.#level - 1;
        return { kind: 'hole', offset, length: limit - offset };
      }
      limit = Math.min(limit, layer.size);
      const run = this.#locate(layer, offset, limit - offset);
      if (!run) return undefined;
      if (run.kind !== 'hole' || this.#level === this.#layers.length - 1) {
        this.#depth = this.#level;
        return run;
      }
      this.#holeEnds[this.#level++] = offset + run.length;
    }
  }

  #locate(layer: Layer, offset: number, length: number): Run | undefined {
    const { flat } = layer;
    if (flat && this.#reading) {
      return { kind: 'data', offset, length, source: flat.source, at: flat.at + offset };
    }
    const run = layer.locate(offset, length);
    if (run && !(run.offset === offset && run.length > 0 && run.length <= length)) {
      throw new DiskError('corrupt', `The ${layer.format} map answers ${run.length} bytes for ${length}`, {
        path: layer.source.name,
        offset,
      });
    }
    return run;
  }
}
