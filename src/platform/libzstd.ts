import { type Koffi, type KoffiFunction, loadKoffi, loadZstd } from './koffi.ts';

/**
 * The system's libzstd, on threads of libuv's pool. Both answer how many bytes of `into` they filled, or -1 where the
 * data is damaged or does not fit.
 */
export interface Libzstd {
  decompress(packed: Uint8Array, into: Uint8Array): Promise<number>;
  compress(bytes: Uint8Array, into: Uint8Array, level: number): Promise<number>;
}

/**
 * Calls in libuv's pool at a time: as many as it has threads. Each has a context of its own from the start, and the tables
 * of a few stay in the processor's caches: with 16, compressing took a tenth more time.
 */
const maxCalls = 4;

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
  // Contexts are costly to make and serve one call at a time: as many stay as calls ever overlapped.
  const readers: unknown[] = [];
  const writers: unknown[] = [];
  const waiting: (() => void)[] = [];
  let running = 0;

  const run = async (
    code: KoffiFunction,
    idle: unknown[],
    create: KoffiFunction,
    args: readonly unknown[],
    room: number,
  ): Promise<number> => {
    if (running >= maxCalls) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
    try {
      const context = idle.pop() ?? create();
      if (context === null) throw new Error('libzstd has no memory');
      const answer = await new Promise<number | bigint>((resolve, reject) => {
        code.async(context, ...args, (error: unknown, value: number | bigint) => {
          idle.push(context);
          if (error) reject(error);
          else resolve(value);
        });
      });
      // Errors are numbers near 2^64.
      return Number(answer) <= room ? Number(answer) : -1;
    } finally {
      const next = waiting.shift();
      if (next) next();
      else running--;
    }
  };

  return {
    decompress: (packed, into) =>
      run(decompress, readers, newReader, [into, into.length, packed, packed.length], into.length),
    compress: (bytes, into, level) =>
      run(compress, writers, newWriter, [into, into.length, bytes, bytes.length, level], into.length),
  };
}
