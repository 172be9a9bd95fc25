import { pageAligned } from '../bytes/page-buffer.ts';
import type { Image } from '../image/image.ts';

export interface BenchOptions {
  readonly count: number;
  /** Requests in flight, at least 1. */
  readonly depth: number;
  /** Bytes of a request. */
  readonly bytes: number;
  /** Guest byte of the first request; the others follow at `step` bytes from each other, around the image's end. */
  readonly offset: number;
  readonly step: number;
  /** Writes this byte over and over instead of reading. */
  readonly pattern?: number;
  /** Flushes after so many requests. */
  readonly flushInterval?: number;
  /** Waits for all requests in flight before a flush; default true. */
  readonly drain?: boolean;
  readonly signal?: AbortSignal;
}

/**
 * Sends requests to an image and gives the milliseconds that they took. Throws what a request throws: `out-of-range` for
 * one that ends past the image's end.
 */
export async function benchImage(image: Image, options: BenchOptions): Promise<number> {
  const start = performance.now();
  await new Bench(image, options).run();
  return performance.now() - start;
}

class Bench {
  readonly #image: Image;
  readonly #options: BenchOptions;
  readonly #idle: Uint8Array[];
  readonly #undrained: Promise<void>[] = [];
  #offset: number;
  /** Requests not completed yet, those in flight included. */
  #left: number;
  #inFlight = 0;
  #flushing = false;
  #finish: () => void = () => undefined;
  #fail: (error: unknown) => void = () => undefined;
  #failure: { readonly error: unknown } | undefined;

  constructor(image: Image, options: BenchOptions) {
    this.#image = image;
    this.#options = options;
    this.#offset = options.offset;
    this.#left = options.count;
    this.#idle = Array.from({ length: Math.min(options.depth, options.count) }, () =>
      pageAligned(options.bytes).fill(options.pattern ?? 0),
    );
  }

  async run(): Promise<void> {
    if (this.#left === 0) return;
    await new Promise<void>((resolve, reject) => {
      this.#finish = resolve;
      this.#fail = reject;
      this.#submit();
    });
    await Promise.all(this.#undrained);
  }

  #submit(): void {
    const { step, depth } = this.#options;
    while (this.#left > this.#inFlight && this.#inFlight < depth) {
      const offset = this.#offset;
      const buffer = this.#idle.pop()!;
      this.#inFlight++;
      this.#offset = (this.#offset + step) % this.#image.size;
      this.#request(offset, buffer).then(
        () => this.#completed(buffer),
        (error) => {
          this.#inFlight--;
          this.#stop(error);
        },
      );
    }
  }

  async #request(offset: number, buffer: Uint8Array): Promise<void> {
    this.#options.signal?.throwIfAborted();
    if (this.#options.pattern === undefined) await this.#image.read(offset, buffer);
    else await this.#image.write(offset, buffer);
  }

  /** The same turns as qemu-img's, so that as many flushes come at the same places. */
  #completed(buffer: Uint8Array): void {
    if (this.#failure) {
      this.#inFlight--;
      this.#stop(this.#failure.error);
      return;
    }
    const { flushInterval = 0, drain = true } = this.#options;
    const notSent = this.#left - this.#inFlight;
    this.#idle.push(buffer);
    this.#left--;
    this.#inFlight--;
    if (flushInterval > 0 && notSent % flushInterval === 0) {
      if (!drain) this.#flushAlong();
      else if (this.#inFlight === 0) this.#flush();
      if (drain) return;
    }
    if (this.#left === 0) this.#finish();
    else this.#submit();
  }

  #flush(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    this.#image.flush().then(
      () => {
        this.#flushing = false;
        if (this.#left === 0) this.#finish();
        else this.#submit();
      },
      (error) => this.#stop(error),
    );
  }

  #flushAlong(): void {
    const flush = this.#image.flush();
    // It is awaited at the end; until then a failure is no stray one.
    flush.catch(() => undefined);
    this.#undrained.push(flush);
  }

  /** The image is left alone only when nothing is under way any more. */
  #stop(error: unknown): void {
    this.#failure ??= { error };
    if (this.#inFlight === 0) this.#fail(this.#failure.error);
  }
}
