import { type Koffi, loadKoffi } from './koffi.ts';
import { CallContexts, callInPool } from './pool-calls.ts';
import { rawIo } from './raw-io.ts';
import { loadZlib, ZStream, zlib, zlibVersion } from './z-stream.ts';

/** Packs on a thread of libuv's pool: what it becomes, or undefined when that takes more than `limit` bytes. */
export type Deflate = (bytes: Uint8Array, limit: number) => Promise<Uint8Array | undefined>;

/** A stream that is used again and again: making one takes 300 KB of fresh memory, a quarter of the time of a unit of 64 KiB. */
interface Packer {
  readonly stream: ZStream;
  output: Uint8Array;
  /** What is being packed: it is known by its address alone meanwhile. */
  input: Uint8Array | undefined;
}

/** Shorter typed arrays may lie in memory that moves. */
export const leastBytes = 512;

/**
 * Node's zlib by its functions themselves. `windowBits`: negative for raw deflate, as zlib has it. Undefined where Node does
 * not show them, or there is no koffi. Only for units of `leastBytes` or more.
 */
export function bindDeflate(windowBits: number, level: number): Deflate | undefined {
  try {
    const koffi = loadKoffi();
    return koffi && bind(koffi, windowBits, level);
  } catch {
    // Optional: without them a stream of Node's is made for each unit.
    return undefined;
  }
}

function bind(koffi: Koffi, windowBits: number, level: number): Deflate | undefined {
  const library = loadZlib(koffi);
  const io = rawIo();
  const init = library.func(
    'int deflateInit2_(void *stream, int level, int method, int windowBits, int memLevel, int strategy, const char *version, int streamBytes)',
  );
  const reset = library.func('int deflateReset(void *stream)');
  const deflate = library.func('int deflate(void *stream, int flush)');
  if (!io) return undefined;
  const packers = new CallContexts<Packer>(() => {
    const stream = new ZStream();
    const { memory } = stream;
    const answer = init(memory, level, zlib.deflated, windowBits, memoryLevel, 0, zlibVersion, ZStream.bytes);
    if (answer !== 0) throw new Error('zlib has no memory');
    return { stream, output: new Uint8Array(0), input: undefined };
  });
  return (bytes, limit) =>
    packers.lend(async (packer) => {
      const { stream } = packer;
      const room = limit + spareBytes;
      if (packer.output.length < room) packer.output = new Uint8Array(Math.max(room, leastBytes));
      packer.input = bytes;
      reset(stream.memory);
      stream.setInput(io.addressOf(bytes), bytes.length);
      stream.setOutput(io.addressOf(packer.output), room);
      const answer = await callInPool(deflate, [stream.memory, zlib.finish]);
      packer.input = undefined;
      const length = room - stream.outputLeft;
      return answer === zlib.streamEnd && length <= limit ? packer.output.slice(0, length) : undefined;
    });
}

/** zlib does not say that it has ended where the last byte of the room is filled. */
const spareBytes = 16;

/** The most memory that zlib can use for it, as qemu-img has it. */
export const memoryLevel = 9;
