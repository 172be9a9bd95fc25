import { randomBytes } from 'node:crypto';
import { unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { isZero } from '../bytes/zero.ts';
import { type Compression, compressionOf } from '../codecs/compression.ts';
import { DiskError, isDiskError } from '../errors.ts';
import { systemError } from '../platform/errno.ts';
import { unpackStream } from '../platform/unpack-stream.ts';
import { openFileStore } from './file.ts';
import { ForwardSource } from './forward.ts';
import type { ByteSource, ByteStore, OnProgress } from './store.ts';

const chunkBytes = 256 * 1024;
/** As much of the unpacked bytes as tells a format. */
const headBytes = 64 * 1024;
/** Zeroes that are left out of a spooled file. */
const holeBytes = 4096;

/** What a packed file turned out to hold. */
export interface PackedSurvey {
  readonly compression: Compression;
  /** Unpacked bytes. */
  readonly size: number;
  /** The first of them. */
  readonly head: Uint8Array;
}

export interface UnpackOptions {
  readonly signal?: AbortSignal;
  /** Packed bytes read, of all. */
  readonly onProgress?: OnProgress;
}

/** The compression of a source, by its first bytes. */
export async function compressionIn(source: ByteSource): Promise<Compression | undefined> {
  const head = new Uint8Array(Math.min(16, source.size));
  await source.read(0, head);
  return compressionOf(head);
}

/**
 * Unpacks a source once and keeps nothing: after that its size is known, and that it is whole. So damage is found before
 * anything is written. Throws as `unpackStream` does, and `aborted`.
 */
export async function surveyPacked(
  source: ByteSource,
  compression: Compression,
  options: UnpackOptions = {},
): Promise<PackedSurvey> {
  const head = new Uint8Array(headBytes);
  let size = 0;
  for await (const piece of unpackStream(compression, chunksOf(source, options), source.name)) {
    if (size < headBytes) head.set(piece.subarray(0, headBytes - size), size);
    size += piece.length;
  }
  return { compression, size, head: head.subarray(0, Math.min(size, headBytes)) };
}

/** The unpacked bytes as a source that is read from front to end. Closes `source` with it. */
export function unpackedSource(
  source: ByteSource,
  { compression, size }: PackedSurvey,
  options: Pick<UnpackOptions, 'signal'> = {},
): ByteSource {
  return new ForwardSource(
    source.name,
    size,
    () => unpackStream(compression, chunksOf(source, options), source.name),
    async () => source[Symbol.asyncDispose](),
  );
}

/**
 * Unpacks into a file of `directory` that has no name any more, so that it is gone when it is closed, whatever happens.
 * For formats that are not read from front to end.
 */
export function spoolUnpacked(
  source: ByteSource,
  compression: Compression,
  directory: string,
  options: UnpackOptions = {},
): Promise<ByteSource> {
  return spoolStream(
    unpackStream(compression, chunksOf(source, options), source.name),
    directory,
    source.name,
  );
}

/** Writes a stream into a file of `directory` without a name. `name`: for messages. */
export async function spoolStream(
  chunks: AsyncIterable<Uint8Array>,
  directory: string,
  name: string,
): Promise<ByteSource> {
  const store = await openUnnamedFile(directory, name);
  try {
    let at = 0;
    for await (const piece of chunks) {
      if (piece.length < holeBytes || !isZero(piece)) await store.write(at, piece);
      at += piece.length;
    }
    await store.resize(at);
    return store;
  } catch (error) {
    await store[Symbol.asyncDispose]();
    throw error;
  }
}

/** An empty file of `directory` that is gone when it is closed. `name`: for messages. */
export async function openUnnamedFile(directory: string, name: string): Promise<ByteStore> {
  const path = join(directory, `.cowherd-unpacked-${process.pid}-${randomBytes(6).toString('hex')}`);
  let store: ByteStore;
  try {
    store = await openFileStore(path, { create: 'exclusive', mode: 0o600, name });
  } catch (error) {
    // Of the name that messages have, nothing was to be made.
    if (!isDiskError(error) || typeof error.detail.errno !== 'string') throw error;
    throw systemError(error.detail.errno, 'create a file in', directory, { cause: error });
  }
  try {
    unlinkSync(path);
    return store;
  } catch (error) {
    await store[Symbol.asyncDispose]();
    throw error;
  }
}

async function* chunksOf(
  source: ByteSource,
  { signal, onProgress }: UnpackOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  for (let at = 0; at < source.size; ) {
    if (signal?.aborted) {
      throw new DiskError('aborted', 'The unpacking was stopped', {
        path: source.name,
        cause: signal.reason,
      });
    }
    const chunk = new Uint8Array(Math.min(chunkBytes, source.size - at));
    await source.read(at, chunk);
    at += chunk.length;
    yield chunk;
    onProgress?.(at, source.size);
  }
}
