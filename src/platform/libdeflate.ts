import { type Koffi, type KoffiFunction, loadKoffi } from './koffi.ts';
import type { Deflate } from './libz.ts';
import { CallContexts, callInPool } from './pool-calls.ts';

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

/**
 * Packs by the system's libdeflate, to raw deflate or zlib streams: whole units, at more than twice the speed of zlib, whose streams can stop
 * anywhere. Undefined where it or koffi is missing. It does not unpack: it takes damaged data (codes that deflate does not have) which
 * zlib, and so QEMU, refuses.
 */
export function bindLibdeflate(wrapper: 'deflate' | 'zlib'): Deflate | undefined {
  try {
    const koffi = loadKoffi();
    return koffi && bind(koffi, wrapper);
  } catch {
    // Optional: zlib does the same.
    return undefined;
  }
}

function bind(koffi: Koffi, wrapper: 'deflate' | 'zlib'): Deflate {
  const library = koffi.load(name);
  const newPacker = library.func('void *libdeflate_alloc_compressor(int level)');
  const compress = library.func(
    `size_t libdeflate_${wrapper}_compress(void *context, const void *bytes, size_t length, void *into, size_t room)`,
  );
  const packers = new CallContexts<Packer>(() => ({
    context: made(newPacker, level),
    output: new Uint8Array(0),
  }));
  return (bytes, limit) =>
    packers.lend(async (packer) => {
      const room = limit + spareBytes;
      if (packer.output.length < room) packer.output = new Uint8Array(room);
      const { context, output } = packer;
      const length = await callInPool(compress, [context, bytes, bytes.length, output, room]);
      // It answers 0 where there is not room enough.
      return length > 0 && length <= limit ? output.slice(0, length) : undefined;
    });
}

function made(create: KoffiFunction, ...args: unknown[]): unknown {
  const context: unknown = create(...args);
  if (context === null) throw new Error('libdeflate has no memory');
  return context;
}
