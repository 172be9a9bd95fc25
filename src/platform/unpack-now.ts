import { pageAligned } from '../bytes/page-buffer.ts';
import type { CodecName } from '../codecs/codec.ts';
import { zstdFrameLength } from '../codecs/zstd-frame.ts';
import { type Koffi, loadKoffi, loadZstd } from './koffi.ts';

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

/** Byte offsets in zlib's z_stream on a 64-bit system, and what its calls answer. */
const stream = { nextIn: 0, availIn: 8, nextOut: 24, availOut: 32, bytes: 112 } as const;
const finish = 4;
const streamEnd = 1;
const bufferError = -5;
const rawWindow = -15;

function bindDeflate(koffi: Koffi): UnpackNow {
  // The zlib that Node itself has, or is linked with: a second one in the process would call functions of the first.
  const library = koffi.load(null);
  const init = library.func(
    'int inflateInit2_(void *stream, int windowBits, const char *version, int streamBytes)',
  );
  const reset = library.func('int inflateReset(void *stream)');
  const inflate = library.func('int inflate(void *stream, int flush)');
  const state = pageAligned(stream.bytes);
  const view = new DataView(state.buffer, state.byteOffset, stream.bytes);
  if (init(state, rawWindow, '1', stream.bytes) !== 0) throw new Error('zlib has no memory');
  const setAddress = (at: number, address: number) => {
    view.setUint32(at, address % two32, true);
    view.setUint32(at + 4, Math.floor(address / two32), true);
  };
  return (_packed, from, length, into, room) => {
    reset(state);
    setAddress(stream.nextIn, from);
    view.setUint32(stream.availIn, length, true);
    setAddress(stream.nextOut, into);
    view.setUint32(stream.availOut, room, true);
    const code = inflate(state, finish);
    // Data that would go on is cut off at the unit's end, as QEMU does.
    return (code === streamEnd || code === bufferError) && view.getUint32(stream.availOut, true) === 0;
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

const two32 = 2 ** 32;
