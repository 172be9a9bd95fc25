import { Readable } from 'node:stream';
import { ReadableStream, type ReadableStreamDefaultReader } from 'node:stream/web';
import { createGunzip } from 'node:zlib';
import { bunzip2 } from '../codecs/bunzip2.ts';
import type { Compression } from '../codecs/compression.ts';
import { DiskError, isDiskError } from '../errors.ts';
import { openZstdStream } from './libzstd-stream.ts';

const pieceBytes = 256 * 1024;
/** What an error's offset is exact to, where the unpacking program does not say how far it came. */
const fedBytes = 16 * 1024;

/**
 * Unpacks a whole file of one or more members (streams, frames) that follow each other, with bounded memory. Every
 * checksum is checked by the end. gzip by node:zlib, zstd by libzstd, bzip2 by our own decoder, xz by xz-embedded in
 * WebAssembly. Throws `corrupt` with the offset in the packed data (for xz and gzip: where reading had come to) for
 * what is damaged, too short, or followed by something else; `unsupported` for what the library cannot do.
 */
export function unpackStream(
  compression: Compression,
  chunks: AsyncIterable<Uint8Array>,
  name: string,
): AsyncIterable<Uint8Array> {
  switch (compression) {
    case 'gzip':
      return gunzip(chunks, name);
    case 'xz':
      return unxz(chunks, name);
    case 'zstd':
      return unzstd(chunks, name);
    case 'bzip2':
      return bunzip2(chunks, name);
  }
}

function damaged(
  compression: Compression,
  name: string,
  offset: number,
  why: string,
  cause?: unknown,
): DiskError {
  return new DiskError('corrupt', `The ${compression} data is damaged at byte ${offset}: ${why}`, {
    path: name,
    offset,
    field: compression,
    cause,
  });
}

async function* gunzip(chunks: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<Uint8Array> {
  const feed = new Feed(chunks);
  const source = Readable.from(feed.pieces(), { objectMode: false, highWaterMark: pieceBytes });
  const unzip = createGunzip({ chunkSize: pieceBytes });
  source.on('error', (error) => unzip.destroy(error));
  source.pipe(unzip);
  try {
    for await (const piece of unzip) yield piece as Uint8Array;
    // What zlib left: it ends at the first byte that begins no further member.
    const end = unzip.bytesWritten;
    await feed.drain(end);
    if (feed.strangeAt !== undefined) {
      throw damaged('gzip', name, feed.strangeAt, 'something else follows it');
    }
  } catch (error) {
    if (isDiskError(error) || feed.failure !== undefined) throw feed.failure ?? error;
    const why = error instanceof Error ? error.message : 'zlib failed';
    throw damaged('gzip', name, unzip.bytesWritten, why, error);
  } finally {
    source.destroy();
    unzip.destroy();
  }
}

/** Counts what was handed on, and remembers why no more came. */
class Feed {
  readonly #chunks: AsyncIterator<Uint8Array>;
  handedOn = 0;
  failure: unknown;
  /** The first byte that is not zero behind the data. */
  strangeAt: number | undefined;
  #last: Uint8Array = new Uint8Array(0);

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async *pieces(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const chunk = await this.#next();
      if (!chunk) return;
      for (let at = 0; at < chunk.length; at += fedBytes) {
        const piece = chunk.subarray(at, at + fedBytes);
        this.#last = piece;
        this.handedOn += piece.length;
        yield piece;
      }
    }
  }

  /** Looks for anything but zeroes (the padding of tapes) from `end` on, as far as it is still to be seen. */
  async drain(end: number): Promise<void> {
    let at = this.handedOn - this.#last.length;
    let piece: Uint8Array | undefined = this.#last;
    while (piece) {
      const from = Math.max(0, end - at);
      const strange = piece.subarray(from).findIndex((byte) => byte !== 0);
      if (strange >= 0) {
        this.strangeAt = at + from + strange;
        return;
      }
      at += piece.length;
      piece = await this.#next();
    }
  }

  async #next(): Promise<Uint8Array | undefined> {
    try {
      const next = await this.#chunks.next();
      return next.done ? undefined : next.value;
    } catch (error) {
      this.failure = error;
      throw error;
    }
  }
}

async function* unxz(chunks: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<Uint8Array> {
  const { default: xz } = await import('xz-decompress');
  const feed = new Feed(chunks);
  const pieces = feed.pieces();
  const packed = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const next = await pieces.next();
          if (next.done) controller.close();
          else controller.enqueue(next.value);
        } catch (error) {
          controller.error(error);
        }
      },
    },
    { highWaterMark: 0 },
  );
  const unpacked = new xz.XzReadableStream(packed as never) as unknown as ReadableStream<Uint8Array>;
  const reader = unpacked.getReader();
  try {
    for (;;) {
      const next = await readXz(reader, feed, name);
      if (next === undefined) return;
      yield next;
    }
  } finally {
    // A stream that failed, or is left early, has nothing more to say.
    await reader.cancel().catch(() => undefined);
    await pieces.return(undefined);
  }
}

async function readXz(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  feed: Feed,
  name: string,
): Promise<Uint8Array | undefined> {
  try {
    return (await reader.read()).value;
  } catch (error) {
    if (feed.failure !== undefined) throw feed.failure;
    const code = error instanceof Error ? /error code (\d+)/.exec(error.message)?.[1] : undefined;
    throw xzFailure(Number(code), name, feed.handedOn, error);
  }
}

/** xz-embedded's `enum xz_ret`. */
function xzFailure(code: number, name: string, offset: number, cause: unknown): DiskError {
  if (code === 6) {
    const message =
      'This xz data has a check or a filter (SHA-256, BCJ, delta) that is not supported: unpack it by `xz -d` first';
    return new DiskError('unsupported', message, { path: name, offset, field: 'xz', cause });
  }
  if (code === 3 || code === 4) {
    const message = 'This xz data needs more memory than is allowed: unpack it by `xz -d` first';
    return new DiskError('unsupported', message, { path: name, offset, field: 'xz', cause });
  }
  const reasons: Readonly<Record<number, string>> = {
    5: 'what follows is not an xz stream',
    7: 'a checksum or a block is wrong',
    8: 'it ends too early, or something else follows it',
  };
  return damaged('xz', name, offset, reasons[code] ?? 'it cannot be unpacked', cause);
}

async function* unzstd(chunks: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<Uint8Array> {
  using stream = openZstdStream();
  if (!stream) {
    throw new DiskError(
      'unsupported',
      'Files packed by zstd need libzstd.so.1 and the package koffi: install them, or unpack it by `zstd -d` first',
      { path: name, field: 'zstd' },
    );
  }
  let offset = 0;
  let open = false;
  for await (const chunk of chunks) {
    let at = 0;
    // What is unpacked already may fill more than one piece.
    for (let full = false; at < chunk.length || full; ) {
      const into = new Uint8Array(pieceBytes);
      const step = stream.step(chunk.subarray(at), into);
      if (!step) throw damaged('zstd', name, offset + at, 'a frame is wrong, or is none');
      at += step.taken;
      open = step.open;
      full = step.filled === into.length && step.open;
      if (step.filled > 0) yield into.subarray(0, step.filled);
    }
    offset += chunk.length;
  }
  if (open) throw damaged('zstd', name, offset, 'it ends too early');
}
