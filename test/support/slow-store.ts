import { DiskError } from '../../src/errors.ts';
import type { ByteStore, Extent } from '../../src/storage/store.ts';
import type { Random } from '../crash/random.ts';

/** Shares of requests that are done at once, as a file store does short ones, and of turns in which several end. */
const atOnce = 0.2;
const together = 0.7;
/** A write that fails has done whole sectors. */
const sectorBytes = 512;

/** Requests of all its stores end in an order that nobody asked for; the same seed gives the same order. */
export class Disorder {
  /** The share of writes that fail, when a part of them is done. */
  failing = 0;
  readonly #random: Random;
  readonly #waiting: (() => void)[] = [];
  #running = false;

  constructor(random: Random) {
    this.#random = random;
  }

  /** Does `work` at some later moment, or now. */
  later<T>(work: () => Promise<T>): Promise<T> {
    if (this.#random.chance(atOnce)) return work();
    return new Promise((resolve, reject) => {
      this.#waiting.push(() => work().then(resolve, reject));
      if (this.#running) return;
      this.#running = true;
      setImmediate(this.#turn);
    });
  }

  /** How many of a write's bytes are done before it fails; undefined: it does not. */
  partOf(length: number): number | undefined {
    if (this.failing === 0 || !this.#random.chance(this.failing)) return undefined;
    const part = this.#random.below(length + 1);
    return part - (part % sectorBytes);
  }

  readonly #turn = (): void => {
    do {
      const [end] = this.#waiting.splice(this.#random.below(this.#waiting.length), 1);
      end();
    } while (this.#waiting.length > 0 && this.#random.chance(together));
    this.#running = this.#waiting.length > 0;
    if (this.#running) setImmediate(this.#turn);
  };
}

/**
 * A store whose requests end in disorder. A request uses the caller's buffer when it ends, so that one that is given to
 * somebody else before shows. As a file does, it never gets shorter by a request to grow that a write has overtaken.
 */
export class SlowStore implements ByteStore {
  readonly #disk: ByteStore;
  readonly #disorder: Disorder;

  /** `disk` does at once what it is asked for. */
  constructor(disk: ByteStore, disorder: Disorder) {
    this.#disk = disk;
    this.#disorder = disorder;
  }

  get name(): string {
    return this.#disk.name;
  }

  get size(): number {
    return this.#disk.size;
  }

  read(at: number, into: Uint8Array): Promise<void> {
    return this.#disorder.later(() => this.#disk.read(at, into));
  }

  write(at: number, from: Uint8Array): Promise<void> {
    return this.#disorder.later(async () => {
      const part = this.#disorder.partOf(from.length);
      if (part === undefined) return this.#disk.write(at, from);
      await this.#disk.write(at, from.subarray(0, part));
      throw new DiskError('out-of-space', 'This write fails', { path: this.name, offset: at });
    });
  }

  /** For who was told a place to write to at once. */
  writeNow(at: number, from: Uint8Array): void {
    void this.#disk.write(at, from);
  }

  zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    return this.#disorder.later(() => this.#disk.zero(at, length, options));
  }

  resize(size: number): Promise<void> {
    const grows = size >= this.size;
    return this.#disorder.later(async () => {
      if (!grows || size > this.size) await this.#disk.resize(size);
    });
  }

  flush(): Promise<void> {
    return this.#disorder.later(() => this.#disk.flush());
  }

  extent(at: number): Promise<Extent> {
    return this.#disorder.later(() => this.#disk.extent(at));
  }

  allocated(): Promise<number | undefined> {
    return this.#disk.allocated();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#disk[Symbol.asyncDispose]();
  }
}
