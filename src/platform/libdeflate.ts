import { type Koffi, type KoffiFunction, loadKoffi } from './koffi.ts';
import type { Deflate, Inflate } from './libz.ts';
import { CallContexts, callInPool } from './pool-calls.ts';
import type { UnpackNow } from './unpack-now.ts';

/** libdeflate, which packs and unpacks whole units: twice as fast as zlib, whose streams can stop anywhere. */
export interface Libdeflate {
  readonly deflate: Deflate;
  readonly inflate: Inflate;
}

/** Of what qemu-img packs to the same size in a quarter of its time; level 2 takes a third more, for 2 % less space. */
const level = 1;

const name = 'libdeflate.so.0';

/** It writes words, and gives up where the last one might not fit. */
const spareBytes = 64;

/** A context for packing, and where it packs to: fresh memory for each unit would take time of its own. */
interface Packer {
  readonly context: unknown;
  output: Uint8Array;
}

/** The system's libdeflate through koffi, for raw deflate or zlib streams; undefined where one of them is missing. */
export function bindLibdeflate(wrapper: 'deflate' | 'zlib'): Libdeflate | undefined {
  try {
    const koffi = loadKoffi();
    return koffi && bind(koffi, wrapper);
  } catch {
    // Optional: zlib does the same.
    return undefined;
  }
}

function bind(koffi: Koffi, wrapper: 'deflate' | 'zlib'): Libdeflate {
  const library = koffi.load(name);
  const newPacker = library.func('void *libdeflate_alloc_compressor(int level)');
  const newUnpacker = library.func('void *libdeflate_alloc_decompressor()');
  const compress = library.func(
    `size_t libdeflate_${wrapper}_compress(void *context, const void *bytes, size_t length, void *into, size_t room)`,
  );
  const decompress = library.func(
    `int libdeflate_${wrapper}_decompress(void *context, const void *packed, size_t length, void *into, size_t room, size_t *filled)`,
  );
  const packers = new CallContexts<Packer>(() => ({
    context: made(newPacker, level),
    output: new Uint8Array(0),
  }));
  const unpackers = new CallContexts<unknown>(() => made(newUnpacker));
  return {
    deflate: (bytes, limit) =>
      packers.lend(async (packer) => {
        const room = limit + spareBytes;
        if (packer.output.length < room) packer.output = new Uint8Array(room);
        const { context, output } = packer;
        const length = await callInPool(compress, [context, bytes, bytes.length, output, room]);
        // It answers 0 where there is not room enough.
        return length > 0 && length <= limit ? output.slice(0, length) : undefined;
      }),
    inflate: (packed, into) =>
      unpackers.lend(async (context) => {
        const args = [context, packed, packed.length, into, into.length, null];
        return (await callInPool(decompress, args)) === 0;
      }),
  };
}

/** The same on this thread, for raw deflate; undefined where the library is missing. */
export function libdeflateNow(koffi: Koffi): UnpackNow | undefined {
  try {
    const library = koffi.load(name);
    const context = made(library.func('void *libdeflate_alloc_decompressor()'));
    const decompress = library.func(
      'int libdeflate_deflate_decompress(void *context, uintptr_t packed, size_t length, uintptr_t into, size_t room, size_t *filled)',
    );
    return (_packed, from, length, into, room) => decompress(context, from, length, into, room, null) === 0;
  } catch {
    return undefined;
  }
}

function made(create: KoffiFunction, ...args: unknown[]): unknown {
  const context: unknown = create(...args);
  if (context === null) throw new Error('libdeflate has no memory');
  return context;
}
