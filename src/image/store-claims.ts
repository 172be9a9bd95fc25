import { DiskError } from '../errors.ts';
import type { Layer } from '../formats/driver.ts';
import type { ImageLock } from '../storage/image-lock.ts';
import type { ByteSource } from '../storage/store.ts';

/*
 * Two images that write one store each keep tables of it in memory, and the later one to flush writes over what the earlier one has. On host files
 * QEMU's locks keep them apart; here is what does it for two images of this program that were given the same store, in memory or of
 * somebody's own (locks of files do not tell openings of one `FileStore` apart either).
 */

/** Bytes [start, end) of a store that an image writes, and what it lets others do there. */
interface Claim {
  readonly owner: object;
  readonly lock: ImageLock;
  readonly start: number;
  /** A part without a size of its own grows with the store. */
  readonly end: () => number;
}

const claims = new WeakMap<ByteSource, Claim[]>();

/** What one image writes: its stores are nobody else's until it is closed. */
export class StoreClaims {
  readonly #stores = new Set<ByteSource>();
  #refused: ByteSource | undefined;

  /** Throws `locked` where another image that is open writes the same bytes of the store, and not both are raw. */
  add(source: ByteSource, lock: ImageLock): void {
    const { store, start, end } = bytesBeneath(source);
    const held = claims.get(store) ?? [];
    const excludes = (one: ImageLock, other: ImageLock) => (one.hold & ~other.shared) !== 0;
    const isInTheWay = (other: Claim) =>
      other.owner !== this &&
      other.start < end() &&
      start < other.end() &&
      (excludes(other.lock, lock) || excludes(lock, other.lock));
    if (held.some(isInTheWay)) {
      this.#refused = source;
      throw new DiskError('locked', `'${source.name}' is open for writing already, by this program`, {
        path: source.name,
        detail: { fix: 'dispose of the other image first' },
      });
    }
    held.push({ owner: this, lock, start, end });
    claims.set(store, held);
    this.#stores.add(store);
  }

  /** Another image writes it, and closes it: who was refused must not. */
  isAnothers(source: AsyncDisposable): boolean {
    return source === this.#refused;
  }

  release(): void {
    for (const store of this.#stores) {
      const rest = claims.get(store)?.filter(({ owner }) => owner !== this) ?? [];
      if (rest.length > 0) claims.set(store, rest);
      else claims.delete(store);
    }
    this.#stores.clear();
  }

  /** Releases when the layer is closed. */
  releaseWith(layer: Layer): void {
    if (this.#stores.size === 0) return;
    const close = layer[Symbol.asyncDispose];
    layer[Symbol.asyncDispose] = async () => {
      try {
        await close.call(layer);
      } finally {
        this.release();
      }
    };
  }
}

/** The store at the bottom of a pile of filters, and which bytes of it the pile can reach. */
function bytesBeneath(source: ByteSource): Pick<Claim, 'start' | 'end'> & { readonly store: ByteSource } {
  let store = source;
  let start = 0;
  let isPart = false;
  for (; store.inner; store = store.inner) {
    start += store.innerOffset ?? 0;
    isPart ||= store.innerOffset !== undefined;
  }
  // Two partitions of one disk are nothing to each other.
  const end = () => (isPart ? start + Math.max(1, source.size) : Number.POSITIVE_INFINITY);
  return { store, start, end };
}
