import type { ByteStore } from '../../storage/store.ts';
import type { Reservation } from '../driver.ts';

/** Sectors of a differencing disk's block that are the parent's until they are published. */
export class NewSectors implements Reservation {
  readonly store: ByteStore;
  readonly offset: number;
  readonly length: number;
  readonly at: number;
  readonly fresh = true;
  readonly #publish: () => void;
  readonly #release: () => void;

  constructor(
    store: ByteStore,
    offset: number,
    length: number,
    at: number,
    outcome: { readonly publish: () => void; readonly release: () => void },
  ) {
    this.store = store;
    this.offset = offset;
    this.length = length;
    this.at = at;
    this.#publish = outcome.publish;
    this.#release = outcome.release;
  }

  publish(): void {
    this.#publish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Unpublished, the room stays in the block, its bits clear.
    this.#release();
  }
}
