import { DiskError } from '../../errors.ts';
import { digestBytes, type HashName, primitives } from '../primitives.ts';
import type { CipherSpec } from '../sector-cipher.ts';

const hashes: readonly string[] = Object.keys(digestBytes);
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
  if (!modes.includes(mode)) fail('unsupported', 'cipher mode', `Cipher mode '${mode}' not supported`);
  const one = mode === 'xts' ? Math.floor(keyBytes / 2) : keyBytes;
  const isAes = cipherName === 'aes';
  if (!isAes || (one !== 16 && one !== 24 && one !== 32) || (mode === 'xts' && keyBytes % 2 !== 0)) {
    const message = `Algorithm '${cipherName}' with key size ${one} bytes not supported`;
    fail(isAes ? 'corrupt' : 'unsupported', isAes ? 'key bytes' : 'cipher name', message);
  }
  if (!generators.includes(iv)) fail('unsupported', 'cipher mode', `IV generator '${iv}' not supported`);
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
  throw new DiskError('unsupported', `Hash algorithm '${name}' not supported`, {
    path,
    field,
    detail: { name },
  });
}
