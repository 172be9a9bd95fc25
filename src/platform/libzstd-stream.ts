import { type Koffi, loadKoffi, loadZstd } from './koffi.ts';

/** One running unpacking of zstd frames that follow each other, by the system's libzstd. */
export interface ZstdStream extends Disposable {
  /**
   * Unpacks from `packed` into `into`. `taken` and `filled` say how far it came; `open` is false at the end of a frame.
   * Undefined: the data is damaged.
   */
  step(
    packed: Uint8Array,
    into: Uint8Array,
  ): { readonly taken: number; readonly filled: number; readonly open: boolean } | undefined;
}

/** Windows of up to 2 GiB are allowed by the format (`zstd --long=31`); 128 MiB is what `zstd -d` takes unasked. */
const windowLog = 27;
const windowLogMax = 100;

/** Undefined where libzstd or koffi are missing, or COWHERD_NO_KOFFI=1. */
export function openZstdStream(): ZstdStream | undefined {
  let library: ReturnType<Koffi['load']> | undefined;
  try {
    const koffi = loadKoffi();
    library = koffi && loadZstd(koffi);
  } catch {
    return undefined;
  }
  if (!library) return undefined;
  const context = library.func('void *ZSTD_createDCtx()')();
  if (context === null) throw new Error('libzstd has no memory');
  library.func('size_t ZSTD_DCtx_setParameter(void *context, int parameter, int value)')(
    context,
    windowLogMax,
    windowLog,
  );
  const free = library.func('size_t ZSTD_freeDCtx(void *context)');
  const isError = library.func('unsigned int ZSTD_isError(size_t code)');
  const decompress = library.func(
    'size_t ZSTD_decompressStream_simpleArgs(void *context, void *into, size_t room, _Inout_ size_t *filled, ' +
      'const void *packed, size_t length, _Inout_ size_t *taken)',
  );
  return {
    step(packed, into) {
      const filled = [0];
      const taken = [0];
      const code = decompress(context, into, into.length, filled, packed, packed.length, taken);
      if (isError(code)) return undefined;
      return { taken: Number(taken[0]), filled: Number(filled[0]), open: Number(code) !== 0 };
    },
    [Symbol.dispose]() {
      free(context);
    },
  };
}
