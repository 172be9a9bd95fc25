import { wipe } from '../../crypto/bytes.ts';
import type { CipherSpec } from '../../crypto/sector-cipher.ts';
import { EncryptedStore } from '../../storage/encrypted.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { Run } from '../driver.ts';

const keyBytes = 16;
const spec: CipherSpec = { mode: 'cbc', iv: 'plain64' };
/** Differences of host and guest offsets whose views are kept. */
const keptViews = 256;

/**
 * The encryption of crypt_method 1: AES-128-CBC under the password itself, a sector's number being the guest's. So the
 * view of a cluster depends on how far it lies from its guest offset, and clusters that lie equally far share one.
 */
export class LegacyAes {
  readonly #key: Uint8Array;
  readonly #views = new Map<number, EncryptedStore>();
  #missing = new Map<number, ByteSource>();

  private constructor(key: Uint8Array) {
    this.#key = key;
  }

  /** The key is the password's first 16 bytes, filled up with zeroes. */
  static async withPassword(password: Uint8Array): Promise<LegacyAes> {
    const key = new Uint8Array(keyBytes);
    key.set(password.subarray(0, keyBytes));
    return new LegacyAes(key);
  }

  /** The run with its data in the clear; undefined: `await load()` and ask again. */
  show(run: Run): Run | undefined {
    if (run.kind !== 'data') return run;
    const distance = run.at - run.offset;
    const source = this.#views.get(distance);
    if (source) return { ...run, source, mayBeSparse: false };
    this.#missing.set(distance, run.source);
    return undefined;
  }

  /** Makes the views that `show` lacked. */
  async load(): Promise<void> {
    const missing = this.#missing;
    this.#missing = new Map();
    for (const [distance, data] of missing) {
      if (this.#views.size >= keptViews) this.#views.delete(this.#views.keys().next().value!);
      const options = { spec, key: this.#key, firstSector: -distance / 512 };
      this.#views.set(distance, await EncryptedStore.over(data, options));
    }
  }

  dispose(): void {
    wipe(this.#key);
    for (const view of this.#views.values()) void view[Symbol.asyncDispose]();
    this.#views.clear();
  }
}
