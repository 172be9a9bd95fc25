import { isZero } from '../bytes/zero.ts';
import { FilterStore } from './filter-store.ts';
import type { ByteSource } from './store.ts';

/** What becomes of requests on their way to a node (QEMU's `discard` and `detect-zeroes`). */
export interface RequestPolicy {
  /** False: discards are not carried out. Zeroes that may give space up still may, as in QEMU, except at a store. */
  readonly discard: boolean;
  /** What is written as zeroes becomes a request for zeroes; `unmap`: one that gives the space back. */
  readonly detectZeroes: 'off' | 'on' | 'unmap';
}

/** Bytes of zeroes that are worth a request of their own. */
export const leastZeroes = 4096;

/** The stretches of a write to `at`, as units of `unit` bytes are zero or not: [start, end) in `bytes`. */
export function* stretches(
  bytes: Uint8Array,
  at: number,
  unit: number,
): Generator<{ readonly start: number; readonly end: number; readonly zero: boolean }> {
  for (let start = 0; start < bytes.length; ) {
    let end = start;
    let zero: boolean | undefined;
    while (end < bytes.length) {
      const next = Math.min(bytes.length, end + unit - ((at + end) % unit));
      const found = isZero(bytes.subarray(end, next));
      zero ??= found;
      if (found !== zero) break;
      end = next;
    }
    yield { start, end, zero: zero! };
    start = end;
  }
}

/** A store that treats requests by a policy. */
export class RequestPolicyStore extends FilterStore {
  readonly #policy: RequestPolicy;

  constructor(inner: ByteSource, policy: RequestPolicy) {
    super(inner);
    this.#policy = policy;
  }

  override async write(at: number, from: Uint8Array): Promise<void> {
    const { detectZeroes } = this.#policy;
    if (detectZeroes === 'off') return this.inner.write(at, from);
    for (const { start, end, zero } of stretches(from, at, leastZeroes)) {
      if (zero) await this.zero(at + start, end - start, { punch: detectZeroes === 'unmap' });
      else await this.inner.write(at + start, from.subarray(start, end));
    }
  }

  override zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    return this.inner.zero(at, length, { punch: this.#policy.discard && options?.punch !== false });
  }
}
