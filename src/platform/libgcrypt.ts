import { DiskError } from '../errors.ts';
import { type AesContext, type AesLibrary, mostXtsBytes, startUnmaskedXts } from './aes-library.ts';
import type { Koffi } from './koffi.ts';

const name = 'libgcrypt.so.20';

/** The library's own numbers (gcrypt.h), which belong to its binary interface. */
const modes = { ecb: 1, xts: 13 };
const ciphers: Readonly<Record<number, number>> = { 16: 7, 24: 8, 32: 9 };
const disableSecureMemory = 37;
const initializationFinished = 38;

/**
 * AES by the system's libgcrypt, which from 1.10 on has XTS by vector instructions of 256 bits (VAES): on processors that have them
 * in six tenths of the time of OpenSSL 3.0, the one in Node 20 and 22. Throws where it is missing.
 */
export function bindLibgcrypt(koffi: Koffi): AesLibrary {
  const library = koffi.load(name);
  // The first call, whichever it is, sets the library up; it complains to the system's log where that is not this one.
  library.func('const char *gcry_check_version(const char *least)')(null);
  const control = library.func('int gcry_control(int command, ...)');
  control(disableSecureMemory, 'int', 0);
  control(initializationFinished, 'int', 0);
  const open = library.func('int gcry_cipher_open(void *context, int cipher, int mode, unsigned int flags)');
  const close = library.func('void gcry_cipher_close(uintptr_t context)');
  const setKey = library.func('int gcry_cipher_setkey(uintptr_t context, void *key, size_t length)');
  const setVector = library.func('int gcry_cipher_setiv(uintptr_t context, void *vector, size_t length)');
  const calls = ['decrypt', 'encrypt'].map((call) =>
    library.func(
      `int gcry_cipher_${call}(uintptr_t context, void *into, size_t room, void *from, size_t length)`,
    ),
  );

  const start = (
    mode: number,
    cipher: number,
    key: Uint8Array,
    vector: Uint8Array | undefined,
    forth: boolean,
  ): AesContext => {
    const opened = new BigUint64Array(1);
    if (open(opened, cipher, mode, 0) !== 0) throw new DiskError('io', 'libgcrypt has no such AES cipher');
    const context = opened[0];
    if (setKey(context, key, key.length) !== 0) {
      close(context);
      throw new DiskError('io', 'libgcrypt took no AES key', { field: 'key' });
    }
    const update = calls[forth ? 1 : 0];
    return {
      update(blocks) {
        for (let at = 0; at < blocks.length; at += mostXtsBytes) {
          const part = blocks.length <= mostXtsBytes ? blocks : blocks.subarray(at, at + mostXtsBytes);
          const begun = !vector || setVector(context, vector, vector.length) === 0;
          // In place: it takes the bytes from where they go to.
          if (begun && update(context, part, part.length, null, 0) === 0) continue;
          throw new DiskError('io', 'libgcrypt did not encrypt');
        }
      },
      free: () => close(context),
    };
  };
  const startEcb = (key: Uint8Array, forth: boolean) =>
    start(modes.ecb, ciphers[key.length], key, undefined, forth);
  const startXts = (keys: Uint8Array, vector: Uint8Array, forth: boolean) =>
    start(modes.xts, ciphers[keys.length / 2], keys, vector, forth);
  return { start: (key, forth) => startUnmaskedXts({ startEcb, startXts }, key, forth) };
}
