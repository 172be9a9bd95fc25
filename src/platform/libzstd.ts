import { type Koffi, type KoffiFunction, loadKoffi, loadZstd } from './koffi.ts';
import { CallContexts, callInPool } from './pool-calls.ts';

/**
 * The system's libzstd, on threads of libuv's pool. Both answer how many bytes of `into` they filled, or -1 where the
 * data is damaged or does not fit.
 */
export interface Libzstd {
  decompress(packed: Uint8Array, into: Uint8Array): Promise<number>;
  compress(bytes: Uint8Array, into: Uint8Array, level: number): Promise<number>;
}

let loaded: { readonly libzstd: Libzstd | undefined } | undefined;

/** libzstd through koffi, loaded at the first call; undefined where one of them is missing, or COWHERD_NO_KOFFI=1. */
export function libzstd(): Libzstd | undefined {
  loaded ??= { libzstd: load() };
  return loaded.libzstd;
}

/** Forgets what was loaded, so that a test can change COWHERD_NO_KOFFI. */
export function reloadLibzstd(): void {
  loaded = undefined;
}

function load(): Libzstd | undefined {
  try {
    const koffi = loadKoffi();
    return koffi && bind(koffi);
  } catch {
    // Optional: without it WebAssembly does the work, on one core.
    return undefined;
  }
}

function bind(koffi: Koffi): Libzstd {
  const library = loadZstd(koffi);
  const newReader = library.func('void *ZSTD_createDCtx()');
  const newWriter = library.func('void *ZSTD_createCCtx()');
  const decompress = library.func(
    'size_t ZSTD_decompressDCtx(void *context, void *into, size_t room, const void *packed, size_t length)',
  );
  const compress = library.func(
    'size_t ZSTD_compressCCtx(void *context, void *into, size_t room, const void *bytes, size_t length, int level)',
  );
  const contexts = (create: KoffiFunction) =>
    new CallContexts<unknown>(() => {
      const context: unknown = create();
      if (context === null) throw new Error('libzstd has no memory');
      return context;
    });
  const readers = contexts(newReader);
  const writers = contexts(newWriter);
  const call = (code: KoffiFunction, idle: CallContexts<unknown>, args: readonly unknown[], room: number) =>
    idle.lend(async (context) => {
      const answer = await callInPool(code, [context, ...args]);
      // Errors are numbers near 2^64.
      return answer <= room ? answer : -1;
    });

  return {
    decompress: (packed, into) =>
      call(decompress, readers, [into, into.length, packed, packed.length], into.length),
    compress: (bytes, into, level) =>
      call(compress, writers, [into, into.length, bytes, bytes.length, level], into.length),
  };
}
