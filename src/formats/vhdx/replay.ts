import { alignUp } from '../../bytes/numbers.ts';
import type { ByteSource, ByteStore, Extent } from '../../storage/store.ts';
import { alignment } from './constants.ts';
import type { LogEntry, Patch } from './log.ts';

/** Bytes of the file that its log asks for. */
function sizeAfter(source: ByteSource, entries: readonly LogEntry[]): number {
  const last = Math.max(0, ...entries.map(({ lastSize }) => lastSize));
  return last > source.size ? alignUp(last, alignment) : source.size;
}

/** Carries out what the log holds, durably. Done twice, it comes to the same. */
export async function replayInPlace(store: ByteStore, entries: readonly LogEntry[]): Promise<void> {
  const size = sizeAfter(store, entries);
  for (const { at, length, bytes } of entries.flatMap(({ patches }) => patches)) {
    if (bytes) await store.write(at, bytes);
    else if (length > 0) await store.zero(at, length);
  }
  if (size > store.size) await store.resize(size);
  await store.flush();
}

/** A file as it will be when its log has been replayed: for reading, with the file left alone. */
export class ReplayedSource implements ByteSource {
  readonly inner: ByteSource;
  readonly size: number;
  readonly #patches: readonly Patch[];
  readonly #from: number;
  readonly #to: number;

  constructor(inner: ByteSource, entries: readonly LogEntry[]) {
    this.inner = inner;
    this.#patches = entries.flatMap(({ patches }) => patches).filter(({ length }) => length > 0);
    this.#from = Math.min(...this.#patches.map(({ at }) => at));
    this.#to = Math.max(0, ...this.#patches.map(({ at, length }) => at + length));
    this.size = Math.max(sizeAfter(inner, entries), this.#to);
  }

  get name(): string {
    return this.inner.name;
  }

  get referenceBase(): string | undefined {
    return this.inner.referenceBase;
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    const end = at + into.length;
    const there = Math.max(0, Math.min(into.length, this.inner.size - at));
    if (there > 0) await this.inner.read(at, into.subarray(0, there));
    into.fill(0, there);
    if (at >= this.#to || end <= this.#from) return;
    for (const patch of this.#patches) {
      const from = Math.max(at, patch.at);
      const to = Math.min(end, patch.at + patch.length);
      if (from >= to) continue;
      if (patch.bytes) into.set(patch.bytes.subarray(from - patch.at, to - patch.at), from - at);
      else into.fill(0, from - at, to - at);
    }
  }

  /** The file's own extents, except where the log has its say: there it is data. */
  async extent(at: number): Promise<Extent> {
    if (at >= this.#from && at < this.#to) return { offset: at, length: this.#to - at, data: true };
    if (at >= this.inner.size) return { offset: at, length: this.size - at, data: true };
    const extent = await this.inner.extent(at);
    const until = at < this.#from ? Math.min(this.#from, at + extent.length) : at + extent.length;
    return { ...extent, length: until - at };
  }

  allocated(): Promise<number | undefined> {
    return this.inner.allocated();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.inner[Symbol.asyncDispose]();
  }
}
