import { DiskError } from '../errors.ts';
import { type AesContext, type AesLibrary, mostXtsBytes, startUnmaskedXts } from './aes-library.ts';
import type { Koffi } from './koffi.ts';

/** Starts one of OpenSSL's ciphers; each call of at most `mostBytes` begins anew with `iv`. */
type Openssl = (
  name: string,
  key: Uint8Array,
  iv: Uint8Array | undefined,
  forth: boolean,
  mostBytes: number,
) => AesContext;

/** The most that one call takes: its length is an int. */
const mostEcbBytes = 2 ** 30;

/**
 * AES by the OpenSSL that is part of this process. Its XTS from 3.5 on has the wide instructions (AVX-512) that its ECB does not have:
 * half of the time.
 */
export function bindLibcrypto(koffi: Koffi, way: 'ecb' | 'xts'): AesLibrary {
  const openssl = bind(koffi);
  const startEcb = (key: Uint8Array, forth: boolean) =>
    openssl(`aes_${key.length * 8}_ecb`, key, undefined, forth, mostEcbBytes);
  const startXts = (keys: Uint8Array, vector: Uint8Array, forth: boolean) =>
    openssl(`aes_${keys.length * 4}_xts`, keys, vector, forth, mostXtsBytes);
  if (way === 'ecb') return { start: startEcb };
  return { start: (key, forth) => startUnmaskedXts({ startEcb, startXts }, key, forth) };
}

function bind(koffi: Koffi): Openssl {
  // Node exports the symbols of the OpenSSL that it is linked with. Another copy of the library is never loaded.
  const own = koffi.load(null);
  const newContext = own.func('uintptr_t EVP_CIPHER_CTX_new()');
  const freeContext = own.func('void EVP_CIPHER_CTX_free(uintptr_t context)');
  const setPadding = own.func('int EVP_CIPHER_CTX_set_padding(uintptr_t context, int padding)');
  const init = own.func(
    'int EVP_CipherInit_ex(uintptr_t context, uintptr_t cipher, uintptr_t engine, void *key, void *iv, int encrypt)',
  );
  const update = own.func(
    'int EVP_CipherUpdate(uintptr_t context, void *into, void *length, void *from, int bytes)',
  );
  const ciphers = new Map<string, unknown>();
  const cipherOf = (name: string) => {
    const cipher = ciphers.get(name) ?? own.func(`uintptr_t EVP_${name}()`)();
    ciphers.set(name, cipher);
    return cipher;
  };
  const length = new Int32Array(1);
  return (name, key, iv, forth, mostBytes) => {
    const cipher = cipherOf(name);
    const context = newContext();
    const begun = context && init(context, cipher, 0, key, iv ?? null, forth ? 1 : 0) === 1;
    if (!begun || setPadding(context, 0) !== 1) {
      freeContext(context);
      throw new DiskError('io', 'OpenSSL took no AES key', { field: 'key' });
    }
    return {
      update(blocks) {
        for (let at = 0; at < blocks.length; at += mostBytes) {
          const part = blocks.subarray(at, at + mostBytes);
          if (update(context, part, length, part, part.length) === 1 && length[0] === part.length) continue;
          throw new DiskError('io', 'OpenSSL did not encrypt');
        }
      },
      free: () => freeContext(context),
    };
  };
}
