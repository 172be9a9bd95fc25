import type { CodecName } from '../codecs/codec.ts';
import { zstdFrameLength } from '../codecs/zstd-frame.ts';
import { type Koffi, loadKoffi, loadZstd } from './koffi.ts';
import { loadZlib, ZStream, zlib, zlibVersion } from './z-stream.ts';

/**
 * Unpacks on this thread, without waiting and without allocation, by libraries in C: exactly `room` bytes at
 * the address `into`. False: the data is damaged, holds less, or takes a way that is not known here.
 */
export type UnpackNow = (
  packed: Uint8Array,
  from: number,
  length: number,
  into: number,
  room: number,
) => boolean;

const known = new Map<CodecName, UnpackNow | undefined>();

/** By the name of a codec; undefined where the library or koffi is missing. `from` is the address of `packed`. */
export function unpackNow(codec: CodecName): UnpackNow | undefined {
  if (!known.has(codec)) known.set(codec, load(codec));
  return known.get(codec);
}

function load(codec: CodecName): UnpackNow | undefined {
  try {
    const koffi = loadKoffi();
    if (!koffi) return undefined;
    if (codec === 'zstd') return bindZstd(koffi);
    return codec === 'deflate' ? bindDeflate(koffi) : undefined;
  } catch {
    // Optional: without it the work is done in libuv's pool.
    return undefined;
  }
}

const rawWindow = -15;

function bindDeflate(koffi: Koffi): UnpackNow {
  const library = loadZlib(koffi);
  const init = library.func(
    'int inflateInit2_(void *stream, int windowBits, const char *version, int streamBytes)',
  );
  const reset = library.func('int inflateReset(void *stream)');
  const inflate = library.func('int inflate(void *stream, int flush)');
  const stream = new ZStream();
  if (init(stream.memory, rawWindow, zlibVersion, ZStream.bytes) !== 0) throw new Error('zlib has no memory');
  return (_packed, from, length, into, room) => {
    reset(stream.memory);
    stream.setInput(from, length);
    stream.setOutput(into, room);
    const code = inflate(stream.memory, zlib.finish);
    // Data that would go on is cut off at the unit's end, as QEMU does.
    return (code === zlib.streamEnd || code === zlib.bufferError) && stream.outputLeft === 0;
  };
}

function bindZstd(koffi: Koffi): UnpackNow {
  const library = loadZstd(koffi);
  const create = library.func('void *ZSTD_createDCtx()') as unknown as () => unknown;
  const decompress = library.func(
    'size_t ZSTD_decompressDCtx(void *context, uintptr_t into, size_t room, uintptr_t packed, size_t length)',
  );
  const context = create();
  if (context === null) throw new Error('libzstd has no memory');
  return (packed, from, length, into, room) => {
    let frame: number;
    try {
      frame = zstdFrameLength(packed.subarray(0, length), 0);
    } catch {
      return false;
    }
    // Errors are numbers near 2^64.
    return Number(decompress(context, into, room, from, frame)) === room;
  };
}
