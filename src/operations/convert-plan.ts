import { alignUp } from '../bytes/numbers.ts';
import type { Image } from '../image/image.ts';
import { type BlockStatus, ChainStatus } from './block-status.ts';

/** Bytes of guest sectors; every step of a plan is whole sectors. */
export const sectorBytes = 512;
/** QEMU's longest request, in bytes. */
const longestStep = 4_194_303 * sectorBytes;

/** What the target gets at a stretch: content to copy, zeroes, or nothing since its backing image has it. */
export type StepKind = 'data' | 'zero' | 'backing';

/** Steps of one kind that follow each other: what one request reads or one call zeroes. Bytes. */
export interface Batch {
  readonly kind: 'data' | 'zero';
  readonly offset: number;
  length: number;
  /** For data: lengths of the steps. Zero detection looks at one step at a time, as qemu-img's does. */
  readonly steps: number[];
}

export interface PlanOptions {
  /** Bytes that one request reads at most. */
  readonly requestBytes: number;
  /** Bytes of the target's cluster when it is written packed: data then comes in whole clusters. */
  readonly packedBytes?: number;
  /**
   * What so many layers of the source, from its top on, are silent about is left alone: the target, or its backing
   * image, has it. Absent: all is copied.
   */
  readonly layersCopied?: number;
  /** Guest bytes of the target's backing image, where known: past it nothing need be written for zeroes. */
  readonly backingBytes?: number;
  /** Zeroes are copied as data (`-S 0`). */
  readonly zeroesAreData: boolean;
  /** Zeroes need no writing: the target reads as zeroes already. */
  readonly skipZeroes: boolean;
  /** Called where a source's tables cannot be read: true goes on and tries to read the data. */
  readonly onUnreadable?: (offset: number, error: unknown) => boolean;
}

interface Part {
  readonly image: Image;
  readonly chain: ChainStatus;
  /** Guest bytes of the concatenation that precede it. */
  readonly start: number;
  readonly end: number;
}

/**
 * Walks the sources, one after the other as if they were one image, and says in which steps they are to be copied:
 * the very steps that qemu-img takes, so that its zero detection and ours leave out the same stretches.
 */
export class ConvertPlan {
  readonly total: number;
  readonly parts: readonly Part[];
  readonly #options: PlanOptions;
  #at = 0;
  /** The last status asked for, and up to where it holds. */
  #kind: StepKind = 'data';
  #kindEnd = 0;
  #held: Batch | undefined;

  private constructor(parts: readonly Part[], options: PlanOptions) {
    this.parts = parts;
    this.total = parts.at(-1)!.end;
    this.#options = options;
  }

  static async of(images: readonly Image[], options: PlanOptions): Promise<ConvertPlan> {
    const parts: Part[] = [];
    let start = 0;
    for (const image of images) {
      const end = start + alignUp(image.size, sectorBytes);
      parts.push({ image, chain: await ChainStatus.of(image), start, end });
      start = end;
    }
    return new ConvertPlan(parts, options);
  }

  /** Guest bytes of the concatenation that have been handed out. */
  get position(): number {
    return this.#at;
  }

  /** The next batch in order; undefined at the end. */
  async next(): Promise<Batch | undefined> {
    const { requestBytes } = this.#options;
    let batch = this.#held;
    this.#held = undefined;
    while (this.#at < this.total) {
      const length = this.#lookNow() ?? (await this.#lookSlowly());
      const offset = this.#at;
      const kind = this.#kind === 'zero' && this.#options.zeroesAreData ? 'data' : this.#kind;
      this.#at += length;
      if (kind === 'backing' || (kind === 'zero' && this.#options.skipZeroes)) {
        if (batch) return batch;
        continue;
      }
      if (batch?.kind === kind && batch.offset + batch.length === offset) {
        const room = kind === 'zero' ? longestStep : requestBytes;
        if (batch.length + length <= room) {
          batch.length += length;
          if (kind === 'data') batch.steps.push(length);
          continue;
        }
      }
      const fresh: Batch = { kind, offset, length, steps: kind === 'data' ? [length] : [] };
      if (batch) {
        this.#held = fresh;
        return batch;
      }
      batch = fresh;
    }
    return batch;
  }

  /** Length of the step at `#at`, whose kind is left in `#kind`; undefined: a table must be loaded first. */
  #look(): number | undefined {
    const { layersCopied, backingBytes, packedBytes, requestBytes } = this.#options;
    const at = this.#at;
    let length = Math.min(this.total - at, longestStep);
    const pastBacking = backingBytes !== undefined && at >= backingBytes;
    if (backingBytes !== undefined && !pastBacking) length = Math.min(length, backingBytes - at);
    if (this.#kindEnd <= at) {
      const part = this.#partAt(at);
      const status = part.chain.lookAbove(at - part.start, length, layersCopied);
      if (!status) return undefined;
      this.#take(part, status, pastBacking);
    }
    length = Math.min(length, this.#kindEnd - at);
    if (this.#kind === 'data' || (this.#kind === 'zero' && this.#options.zeroesAreData)) {
      length = Math.min(length, packedBytes ?? requestBytes);
    }
    if (packedBytes !== undefined) {
      if (length >= packedBytes) return length - (length % packedBytes);
      // Packed clusters are written whole, so what is shorter is read with its neighbours.
      this.#kind = 'data';
      length = Math.min(packedBytes, this.total - at);
    }
    return length;
  }

  #take(part: Part, status: BlockStatus, pastBacking: boolean): void {
    const at = this.#at;
    let length = alignUp(status.length, sectorBytes);
    // Ends on a cluster of the source, lest the next step begin within one.
    const over = (at - part.start + length) % Math.max(sectorBytes, part.chain.clusterBytes);
    if (length > over) length -= over;
    if (status.zero) this.#kind = pastBacking ? 'backing' : 'zero';
    else if (status.data) this.#kind = 'data';
    else this.#kind = this.#options.layersCopied === undefined ? 'data' : 'backing';
    this.#kindEnd = at + length;
  }

  /** As `#look`; a failure is left to `#lookSlowly`, which meets it again. */
  #lookNow(): number | undefined {
    try {
      return this.#look();
    } catch {
      return undefined;
    }
  }

  async #lookSlowly(): Promise<number> {
    const { onUnreadable } = this.#options;
    const part = this.#partAt(this.#at);
    for (;;) {
      try {
        await part.chain.load();
        const length = this.#look();
        if (length !== undefined) return length;
      } catch (error) {
        if (!onUnreadable?.(this.#at - part.start, error)) throw error;
        this.#kind = 'data';
        this.#kindEnd = this.#at + sectorBytes;
      }
    }
  }

  #partAt(at: number): Part {
    for (const part of this.parts) if (at < part.end) return part;
    return this.parts[this.parts.length - 1];
  }
}
