/** Bytes of bitmaps that stay in memory, however large the disk; but more of them than requests run at a time. */
const keptBytes = 32 << 20;
const leastKept = 64;

/** The sector bitmaps of a differencing disk's blocks: those used last, and all that are not written yet. */
export class SectorBitmaps {
  readonly #read: (block: number) => Promise<Uint8Array>;
  readonly #bitmaps = new Map<number, Uint8Array>();
  readonly #loading = new Map<number, Promise<void>>();
  readonly #dirty = new Set<number>();
  readonly #pins = new Map<number, number>();

  constructor(read: (block: number) => Promise<Uint8Array>) {
    this.#read = read;
  }

  get(block: number): Uint8Array | undefined {
    return this.#bitmaps.get(block);
  }

  /** Reads the bitmap of a block, once however many ask for it. */
  load(block: number): Promise<void> {
    if (this.#bitmaps.has(block)) return Promise.resolve();
    let loading = this.#loading.get(block);
    if (!loading) {
      loading = this.#read(block)
        .then((bits) => this.set(block, bits))
        .finally(() => this.#loading.delete(block));
      this.#loading.set(block, loading);
    }
    return loading;
  }

  set(block: number, bits: Uint8Array): void {
    this.#bitmaps.delete(block);
    this.#bitmaps.set(block, bits);
    if (this.#bitmaps.size <= Math.max(leastKept, keptBytes / bits.length)) return;
    for (const oldest of this.#bitmaps.keys()) {
      if (this.#dirty.has(oldest) || this.#pins.has(oldest) || oldest === block) continue;
      this.#bitmaps.delete(oldest);
      break;
    }
  }

  /** Keeps the bitmap of a block in memory, which it is now, until `unpin`: whoever sets bits sets them in the one. */
  pin(block: number): void {
    this.#pins.set(block, (this.#pins.get(block) ?? 0) + 1);
  }

  unpin(block: number): void {
    const left = this.#pins.get(block)! - 1;
    if (left > 0) this.#pins.set(block, left);
    else this.#pins.delete(block);
  }

  /** The bitmap was changed and must be written. */
  touch(block: number): void {
    this.#dirty.add(block);
  }

  /** Hands copies of the changed ones to `write`; they count as changed again when it fails. */
  async writeDirty(write: (dirty: readonly DirtyBitmap[]) => Promise<void>): Promise<void> {
    const taken = [...this.#dirty].map((block) => ({ block, bits: this.#bitmaps.get(block)!.slice() }));
    this.#dirty.clear();
    for (const { block } of taken) this.pin(block);
    try {
      await write(taken);
    } catch (error) {
      for (const { block } of taken) this.touch(block);
      throw error;
    } finally {
      for (const { block } of taken) this.unpin(block);
    }
  }
}

export interface DirtyBitmap {
  readonly block: number;
  readonly bits: Uint8Array;
}
