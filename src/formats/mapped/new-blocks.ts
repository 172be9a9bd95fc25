import type { ByteStore } from '../../storage/store.ts';
import type { Reservation } from '../driver.ts';

/** What becomes of new room. */
export interface RoomOutcome {
  publish(): void;
  /** It was not published; something may have been written there. */
  giveBack(): void;
}

/** Room for whole blocks that reads as zeroes, as the blocks did: only what the guest writes need be written. */
export class NewBlocks implements Reservation {
  readonly store: ByteStore;
  readonly offset: number;
  readonly length: number;
  readonly at: number;
  readonly fresh = false;
  readonly #outcome: RoomOutcome;
  #published = false;

  constructor(store: ByteStore, offset: number, length: number, at: number, outcome: RoomOutcome) {
    this.store = store;
    this.offset = offset;
    this.length = length;
    this.at = at;
    this.#outcome = outcome;
  }

  publish(): void {
    this.#published = true;
    this.#outcome.publish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#published) this.#outcome.giveBack();
  }
}
