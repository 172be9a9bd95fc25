import { type Koffi, type KoffiFunction, loadKoffi, loadZstd } from './koffi.ts';
import { CallContexts, callInPool } from './pool-calls.ts';

/** The system's libzstd, on threads of libuv's pool. */
export interface Libzstd {
  /** How many bytes of `into` it filled, or -1 where the data is damaged or does not fit. */
  decompress(packed: Uint8Array, into: Uint8Array): Promise<number>;
  /** What they become, or undefined when that takes more than `limit` bytes. */
  compress(bytes: Uint8Array, limit: number): Promise<Uint8Array | undefined>;
}

/**
 * Between libzstd's levels 2 and 3: matches of four bytes, looked for at one place. For clusters of 64 KiB it takes four fifths of the
 * time of level 3, the default, for half a hundredth more space.
 */
const parameters = [
  { name: 'ZSTD_c_compressionLevel', number: 100, value: 2 },
  { name: 'ZSTD_c_minMatch', number: 105, value: 4 },
] as const;

/** A context for packing, and where it packs to: fresh memory for each unit would take time of its own. */
interface Writer {
  readonly context: unknown;
  output: Uint8Array;
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
  const setParameter = library.func('size_t ZSTD_CCtx_setParameter(void *context, int parameter, int value)');
  const decompress = library.func(
    'size_t ZSTD_decompressDCtx(void *context, void *into, size_t room, const void *packed, size_t length)',
  );
  const compress = library.func(
    'size_t ZSTD_compress2(void *context, void *into, size_t room, const void *bytes, size_t length)',
  );
  const made = (create: KoffiFunction): unknown => {
    const context: unknown = create();
    if (context === null) throw new Error('libzstd has no memory');
    return context;
  };
  const readers = new CallContexts<unknown>(() => made(newReader));
  const writers = new CallContexts<Writer>(() => {
    const context = made(newWriter);
    for (const { name, number, value } of parameters) {
      if (isError(Number(setParameter(context, number, value)))) throw new Error(`libzstd refuses ${name}`);
    }
    return { context, output: new Uint8Array(0) };
  });

  return {
    decompress: (packed, into) =>
      readers.lend(async (context) => {
        const filled = await callInPool(decompress, [context, into, into.length, packed, packed.length]);
        return filled <= into.length ? filled : -1;
      }),
    compress: (bytes, limit) =>
      writers.lend(async (writer) => {
        if (writer.output.length < limit) writer.output = new Uint8Array(limit);
        const { context, output } = writer;
        const length = await callInPool(compress, [context, output, limit, bytes, bytes.length]);
        return length <= limit ? output.slice(0, length) : undefined;
      }),
  };
}

/** Errors are numbers near 2^64. */
function isError(answer: number): boolean {
  return answer > 2 ** 63;
}
