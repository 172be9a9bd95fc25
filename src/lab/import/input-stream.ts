import { Readable } from 'node:stream';
import { SequentialReader } from '../../bytes/sequential-reader.ts';
import { compressionOf } from '../../codecs/compression.ts';
import { DiskError } from '../../errors.ts';
import { unpackStream } from '../../platform/unpack-stream.ts';

/** What the standard input is called in messages. */
export const inputName = 'the standard input';

/**
 * The standard input, or a file that is read once from front to end, unpacked where its first bytes say that it is packed
 * by gzip, xz, zstd or bzip2. Disposing it lets go of it, so that its writer does not wait. Reading throws `aborted`, and
 * `corrupt` for packed data that is damaged.
 */
export class InputStream implements AsyncDisposable {
  /** For messages. */
  readonly name: string;
  readonly reader: SequentialReader;
  readonly #chunks: AsyncIterable<Uint8Array>;

  private constructor(name: string, chunks: AsyncIterable<Uint8Array>, reader: SequentialReader) {
    this.name = name;
    this.#chunks = chunks;
    this.reader = reader;
  }

  /** Throws `corrupt` where nothing comes. */
  static async open(
    name: string,
    chunks: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<InputStream> {
    const packed = new SequentialReader(untilAborted(chunks, name, signal));
    try {
      const head = await packed.peek(16);
      if (head.length === 0) {
        throw new DiskError('corrupt', `Nothing came from ${name}`, { path: name, field: 'size' });
      }
      const compression = compressionOf(head);
      const reader = compression
        ? new SequentialReader(unpackStream(compression, packed.rest(), name))
        : packed;
      return new InputStream(name, chunks, reader);
    } catch (error) {
      release(chunks);
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    release(this.#chunks);
    await this.reader.close();
  }
}

function release(chunks: AsyncIterable<Uint8Array>): void {
  if (chunks instanceof Readable) chunks.destroy();
}

/** A pipe may be silent for as long as it likes; an abort ends the waiting. */
async function* untilAborted(
  chunks: AsyncIterable<Uint8Array>,
  name: string,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  const iterator = chunks[Symbol.asyncIterator]();
  for (;;) {
    const next = await new Promise<IteratorResult<Uint8Array>>((resolve, reject) => {
      const stop = () =>
        reject(new DiskError('aborted', 'The import was stopped', { path: name, cause: signal.reason }));
      if (signal.aborted) return stop();
      signal.addEventListener('abort', stop, { once: true });
      iterator
        .next()
        .then(resolve, reject)
        .finally(() => signal.removeEventListener('abort', stop));
    });
    if (next.done) return;
    yield next.value;
  }
}
