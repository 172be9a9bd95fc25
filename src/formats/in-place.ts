import type { ByteStore } from '../storage/store.ts';
import type { Reservation } from './driver.ts';

/** Space that guest bytes have already: by default at the same offset in `store`. */
export class InPlace implements Reservation {
  readonly offset: number;
  readonly length: number;
  readonly store: ByteStore;
  readonly at: number;
  readonly fresh = false;

  constructor(store: ByteStore, offset: number, length: number, at = offset) {
    this.store = store;
    this.offset = offset;
    this.length = length;
    this.at = at;
  }

  publish(): void {
    // The place was visible all along.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing was taken, so nothing is given back.
  }
}
