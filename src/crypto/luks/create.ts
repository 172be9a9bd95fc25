import { DiskError } from '../../errors.ts';
import { wipe } from '../bytes.ts';
import { randomBytes } from '../primitives.ts';
import { understandCipher } from './cipher-names.ts';
import * as h from './header.ts';
import { iterationsFor } from './iterations.ts';
import { digestOf, fillSlot, type WritableHeaderArea } from './key-slots.ts';

/** Options of a new header by QEMU's names, not understood yet. */
export interface LuksOptions {
  readonly 'cipher-alg'?: string;
  readonly 'cipher-mode'?: string;
  readonly 'ivgen-alg'?: string;
  readonly 'ivgen-hash-alg'?: string;
  readonly 'hash-alg'?: string;
  /** Milliseconds that trying a passphrase shall take. */
  readonly 'iter-time'?: number;
}

/** The shape of a new header: its names as written there, and where things lie. */
export interface LuksPlan {
  readonly cipherName: string;
  readonly cipherMode: string;
  readonly hashSpec: string;
  readonly keyBytes: number;
  /** Bytes from the header's start. */
  readonly payloadOffset: number;
  readonly iterTime: number;
}

export const defaultIterTime = 2000;

/** QEMU's names of algorithms: for each option those that it accepts. */
const accepted: Readonly<Record<string, readonly string[]>> = {
  'cipher-alg':
    'aes-128 aes-192 aes-256 des 3des cast5-128 serpent-128 serpent-192 serpent-256 twofish-128 twofish-192 twofish-256'.split(
      ' ',
    ),
  'cipher-mode': ['ecb', 'cbc', 'xts', 'ctr'],
  'ivgen-alg': ['plain', 'plain64', 'essiv'],
  'ivgen-hash-alg': 'md5 sha1 sha224 sha256 sha384 sha512 ripemd160'.split(' '),
  'hash-alg': 'md5 sha1 sha224 sha256 sha384 sha512 ripemd160'.split(' '),
};

/** Understands the options. Throws `bad-argument` in QEMU's words, `unsupported` for what is not built. */
export function planHeader(options: LuksOptions): LuksPlan {
  for (const [name, values] of Object.entries(accepted)) {
    const value = options[name as keyof LuksOptions];
    if (value === undefined || values.includes(String(value))) continue;
    throw new DiskError('bad-argument', `Parameter '${name}' does not accept value '${value}'`, {
      field: name,
    });
  }
  const algorithm = options['cipher-alg'] ?? 'aes-256';
  const mode = options['cipher-mode'] ?? 'xts';
  const generator = options['ivgen-alg'] ?? 'plain64';
  const ivHash = options['ivgen-hash-alg'] ?? (generator === 'essiv' ? 'sha256' : undefined);
  const [cipherName, bits] = algorithm.split('-');
  if (cipherName !== 'aes') {
    throw new DiskError('unsupported', `Cipher '${algorithm}' is not supported`, { field: 'cipher-alg' });
  }
  const keyBytes = (Number(bits) / 8) * (mode === 'xts' ? 2 : 1);
  const names = {
    cipherName,
    cipherMode: `${mode}-${generator}${ivHash === undefined ? '' : `:${ivHash}`}`,
    hashSpec: options['hash-alg'] ?? 'sha256',
  };
  understandCipher(names, keyBytes);
  return {
    ...names,
    keyBytes,
    payloadOffset: h.alignBytes + h.slotCount * h.materialSectors(keyBytes) * h.sectorBytes,
    iterTime: options['iter-time'] ?? defaultIterTime,
  };
}

/**
 * Writes a header with a new master key and one key slot into `area`, which reads as zeroes. Gives the header. `detached`:
 * the payload lies in another file. Throws `bad-argument` for an ESSIV hash that makes no AES key, the signal's reason.
 */
export async function createHeader(
  area: WritableHeaderArea,
  plan: LuksPlan,
  passphrase: Uint8Array,
  how: { readonly detached?: boolean; readonly signal?: AbortSignal } = {},
): Promise<h.LuksHeader> {
  const { keyBytes, iterTime } = plan;
  const { hash } = understandCipher(plan, keyBytes);
  const { signal } = how;
  const key = randomBytes(keyBytes);
  try {
    const digestIterations = await iterationsFor(iterTime, hash, h.digestBytes, { share: 8, signal });
    const digestSalt = randomBytes(h.saltBytes);
    const header: h.LuksHeader = {
      cipherName: plan.cipherName,
      cipherMode: plan.cipherMode,
      hashSpec: plan.hashSpec,
      payloadOffset: how.detached ? 0 : plan.payloadOffset / h.sectorBytes,
      keyBytes,
      digest: await digestOf({ digestSalt, digestIterations }, key, hash, signal),
      digestSalt,
      digestIterations,
      uuid: newUuid(),
      slots: Array.from({ length: h.slotCount }, (_, index) => ({
        active: false,
        iterations: 0,
        salt: new Uint8Array(h.saltBytes),
        keyOffset: h.alignBytes / h.sectorBytes + index * h.materialSectors(keyBytes),
        stripes: h.stripes,
      })),
    };
    const iterations = await slotIterations(header, iterTime, signal);
    return await fillSlot(area, header, 0, { key, passphrase, iterations, signal });
  } finally {
    wipe(key);
  }
}

/** Iterations for a slot of this header that take `iterTime` milliseconds here. */
export function slotIterations(
  header: h.LuksHeader,
  iterTime: number,
  signal?: AbortSignal,
): Promise<number> {
  const { hash } = understandCipher(header, header.keyBytes);
  return iterationsFor(iterTime, hash, header.keyBytes, { signal });
}

function newUuid(): string {
  const bytes = randomBytes(16);
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
