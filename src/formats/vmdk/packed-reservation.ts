import { MemoryStore } from '../../storage/memory.ts';
import type { Reservation } from '../driver.ts';
import type { ExtentWriter } from './extent.ts';

/**
 * A grain of a stream that the engine writes as any other: it is gathered in memory, and packed when the engine has
 * published it and lets it go.
 */
export class PackedReservation implements Reservation {
  readonly offset: number;
  readonly length: number;
  readonly store: MemoryStore;
  readonly at = 0;
  readonly fresh = true;
  readonly zeroed = true;
  readonly #writer: ExtentWriter;
  #published = false;

  constructor(writer: ExtentWriter, offset: number, length: number) {
    this.#writer = writer;
    this.offset = offset;
    this.length = length;
    this.store = new MemoryStore({ name: 'grain', size: length });
  }

  publish(): void {
    this.#published = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#published) return;
    this.#published = false;
    await this.#writer.pack!(this.offset, this.store.toBytes());
  }
}
