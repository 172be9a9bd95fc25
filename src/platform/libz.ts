import { type Koffi, loadKoffi } from './koffi.ts';
import { CallContexts, callInPool } from './pool-calls.ts';
import { type RawIo, rawIo } from './raw-io.ts';
import { loadZlib, ZStream, zlib, zlibVersion } from './z-stream.ts';

/** Packs on a thread of libuv's pool: what it becomes, or undefined when that takes more than `limit` bytes. */
export type Deflate = (bytes: Uint8Array, limit: number) => Promise<Uint8Array | undefined>;

/** Unpacks on a thread of libuv's pool what fills `into` exactly. False: it does not, or is damaged; `into` may have changed. */
export type Inflate = (packed: Uint8Array, into: Uint8Array) => Promise<boolean>;

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
  return optional((koffi, io) => packerBy(koffi, io, windowBits, level));
}

/** The same way back, for units of `leastBytes` or more; what they are packed in may be shorter. */
export function bindInflate(windowBits: number): Inflate | undefined {
  return optional((koffi, io) => unpackerBy(koffi, io, windowBits));
}

function optional<Call>(bind: (koffi: Koffi, io: RawIo) => Call): Call | undefined {
  try {
    const koffi = loadKoffi();
    const io = koffi && rawIo();
    return io && bind(koffi, io);
  } catch {
    // Without them a stream of Node's is made for each unit.
    return undefined;
  }
}

function packerBy(koffi: Koffi, io: RawIo, windowBits: number, level: number): Deflate {
  const library = loadZlib(koffi);
  const init = library.func(
    'int deflateInit2_(void *stream, int level, int method, int windowBits, int memLevel, int strategy, const char *version, int streamBytes)',
  );
  const reset = library.func('int deflateReset(void *stream)');
  const deflate = library.func('int deflate(void *stream, int flush)');
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

interface Unpacker {
  readonly stream: ZStream;
  /** For what is too short to be left where it lies. */
  readonly short: Uint8Array;
  /** What is known by its address alone meanwhile. */
  held: readonly Uint8Array[];
}

function unpackerBy(koffi: Koffi, io: RawIo, windowBits: number): Inflate {
  const library = loadZlib(koffi);
  const init = library.func(
    'int inflateInit2_(void *stream, int windowBits, const char *version, int streamBytes)',
  );
  const reset = library.func('int inflateReset(void *stream)');
  const inflate = library.func('int inflate(void *stream, int flush)');
  const unpackers = new CallContexts<Unpacker>(() => {
    const stream = new ZStream();
    if (init(stream.memory, windowBits, zlibVersion, ZStream.bytes) !== 0)
      throw new Error('zlib has no memory');
    return { stream, short: new Uint8Array(leastBytes), held: [] };
  });
  return (packed, into) =>
    unpackers.lend(async (unpacker) => {
      const { stream, short } = unpacker;
      const isShort = packed.length < leastBytes;
      if (isShort) short.set(packed);
      const input = isShort ? short : packed;
      unpacker.held = [input, into];
      reset(stream.memory);
      stream.setInput(io.addressOf(input), packed.length);
      stream.setOutput(io.addressOf(into), into.length);
      const answer = await callInPool(inflate, [stream.memory, zlib.finish]);
      unpacker.held = [];
      return answer === zlib.streamEnd && stream.outputLeft === 0;
    });
}

/** zlib does not say that it has ended where the last byte of the room is filled. */
const spareBytes = 16;

/** The most memory that zlib can use for it, as qemu-img has it. */
export const memoryLevel = 9;
