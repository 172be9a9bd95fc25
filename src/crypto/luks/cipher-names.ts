import { DiskError } from '../../errors.ts';
import { type HashName, primitives } from '../primitives.ts';
import type { CipherSpec } from '../sector-cipher.ts';

/** Ciphers of QEMU and cryptsetup that are known by name and not built. */
const otherCiphers = new Set([
  'serpent',
  'twofish',
  'cast5',
  'camellia',
  'aria',
  'sm4',
  'des3_ede',
  'kuznyechik',
]);
const otherHashes = new Set([
  'md5',
  'sha224',
  'sha3-256',
  'sha3-512',
  'blake2b-512',
  'whirlpool',
  'stribog512',
]);
const hashes: readonly string[] = ['sha1', 'sha256', 'sha384', 'sha512', 'ripemd160'] satisfies HashName[];
const modes: readonly string[] = ['xts', 'cbc', 'ecb'];
const generators: readonly string[] = ['plain', 'plain64', 'essiv'];

/** What a header's names say. */
export interface LuksCipher {
  readonly spec: CipherSpec;
  readonly hash: HashName;
}

/**
 * Understands the names of a LUKS header: `aes`, a mode as `xts-plain64` or `cbc-essiv:sha256`, and a hash. Throws
 * `unsupported` naming what is not built, `corrupt` for what nobody writes.
 */
export function understandCipher(
  names: { readonly cipherName: string; readonly cipherMode: string; readonly hashSpec: string },
  keyBytes: number,
  path?: string,
): LuksCipher {
  const { cipherName, cipherMode, hashSpec } = names;
  const fail = (code: 'corrupt' | 'unsupported', field: string, message: string): never => {
    throw new DiskError(code, message, { path, field, detail: { cipher: `${cipherName}-${cipherMode}` } });
  };
  const dash = cipherMode.indexOf('-');
  if (dash < 0) fail('corrupt', 'cipher mode', `Unexpected cipher mode string format '${cipherMode}'`);
  const mode = cipherMode.slice(0, dash);
  const [iv, ...ivHash] = cipherMode.slice(dash + 1).split(':');
  if (!modes.includes(mode)) fail('unsupported', 'cipher mode', `Cipher mode '${mode}' is not supported`);
  if (cipherName !== 'aes') {
    const known = otherCiphers.has(cipherName) ? '' : 'Unknown cipher: ';
    fail('unsupported', 'cipher name', `${known}Cipher '${cipherName}' is not supported`);
  }
  const one = mode === 'xts' ? keyBytes / 2 : keyBytes;
  if (one !== 16 && one !== 24 && one !== 32) {
    fail('corrupt', 'key bytes', `Algorithm 'aes' with key size ${keyBytes} bytes not supported`);
  }
  if (!generators.includes(iv)) fail('unsupported', 'cipher mode', `IV generator '${iv}' is not supported`);
  if (iv === 'essiv' && ivHash.length === 0) {
    fail('corrupt', 'cipher mode', 'Missing IV generator hash specification');
  }
  return {
    spec: {
      mode: mode as CipherSpec['mode'],
      iv: iv as CipherSpec['iv'],
      ivHash: iv === 'essiv' ? hashNamed(ivHash.join(':'), 'cipher mode', path) : undefined,
    },
    hash: hashNamed(hashSpec, 'hash spec', path),
  };
}

/** Throws `unsupported` for a hash that is not built, or that this runtime lacks. */
export function hashNamed(name: string, field: string, path?: string): HashName {
  if (hashes.includes(name) && primitives().hasHash(name as HashName)) return name as HashName;
  const known = hashes.includes(name) || otherHashes.has(name) ? '' : 'Unknown hash: ';
  throw new DiskError('unsupported', `${known}Hash '${name}' is not supported`, {
    path,
    field,
    detail: { name },
  });
}
