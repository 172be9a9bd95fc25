import type { Layer } from '../formats/driver.ts';
import type { ByteSource } from '../storage/store.ts';
import { ChainCursor } from './chain-cursor.ts';
import { UnpackCache } from './unpack-cache.ts';

/** Storage reads of one request that may be under way at once. */
const maxPending = 16;

/** Reads guest bytes through a chain of layers, the image itself first. It locks nothing. */
export class ChainReader {
  readonly layers: readonly Layer[];
  readonly unpacked = new UnpackCache();
  readonly #cursors: ChainCursor[] = [];

  constructor(layers: readonly Layer[]) {
    this.layers = layers;
  }

  /** Fills `into` from `offset`; what lies past the image's end reads as zeroes. */
  async read(offset: number, into: Uint8Array): Promise<void> {
    const { size } = this.layers[0];
    const end = Math.min(offset + into.length, size);
    if (end < offset + into.length) into.fill(0, Math.max(0, end - offset));
    const cursor = this.#cursors.pop() ?? new ChainCursor(this.layers, 'read');
    cursor.restart();
    const pending: Promise<void>[] = [];
    try {
      for (let at = offset; at < end; ) {
        const run = cursor.next(at, end);
        if (!run) {
          await cursor.faulting.fault(at);
          continue;
        }
        const part = run.length === into.length ? into : into.subarray(at - offset, at - offset + run.length);
        if (run.kind === 'data') pending.push(readPadded(run.source, run.at, part));
        else if (run.kind === 'packed')
          pending.push(this.unpacked.read(this.layers[cursor.depth], run, part));
        else part.fill(0);
        at += run.length;
        if (pending.length === maxPending) await settle(pending);
      }
    } catch (error) {
      // Nobody may write into the caller's buffer after the answer.
      await settle(pending).catch(() => undefined);
      throw error;
    } finally {
      this.#cursors.push(cursor);
    }
    if (pending.length === 1) await pending[0];
    else if (pending.length > 1) await settle(pending);
  }
}

/** Waits for all and empties the list; throws the first failure. */
async function settle(pending: Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(pending.splice(0));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** Reads from a source that may end early: a file cut short, or one that was never extended to its last grain. */
export function readPadded(source: ByteSource, at: number, into: Uint8Array): Promise<void> {
  source.debugEvent?.('read_aio');
  const left = source.size - at;
  if (left >= into.length) return source.read(at, into);
  into.fill(0, Math.max(0, left));
  return left > 0 ? source.read(at, into.subarray(0, left)) : Promise.resolve();
}
