import type { ByteStore } from '../storage/store.ts';

/**
 * Gives the bytes [at, at + length), which nothing names any more, back to the host; false where it did not take them. Not a
 * failure: a hole may need space of the host itself, on a full disk or over a quota. What freed them has happened and is durable,
 * and to report that as failed would be untrue. They may read as anything then, and be used again.
 */
export async function offerSpace(store: ByteStore, at: number, length: number): Promise<boolean> {
  try {
    await store.zero(at, length, { punch: true });
    return true;
  } catch {
    return false;
  }
}
