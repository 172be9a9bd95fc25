import { splitKey } from '../../src/crypto/luks/af-splitter.ts';
import { primitives, randomBytes } from '../../src/crypto/primitives.ts';
import { makeSectorCipher } from '../../src/crypto/sector-cipher.ts';

/*
 * A small LUKS2 header, for tests that change one: cryptsetup needs seconds and 16 MiB for each. That cryptsetup itself opens what is
 * made here is judged in src/formats/luks/luks2.test.ts.
 */

export const copyBytes = 16_384;
const keyBytes = 32;
const areaBytes = 131_072;
export const payloadAt = 2 * copyBytes + areaBytes;
export const spec = { mode: 'xts', iv: 'plain64' } as const;

// biome-ignore lint/suspicious/noExplicitAny: tests change it anywhere.
export type Luks2Json = any;

/** A header with one PBKDF2 slot and `payloadBytes` of payload, as it lies in a file. */
export async function makeLuks2(passphrase: Uint8Array, payloadBytes: number) {
  const key = randomBytes(keyBytes);
  const salt = randomBytes(32);
  const slotKey = await primitives().pbkdf2('sha256', passphrase, salt, 1000, keyBytes);
  const material = await splitKey(key, 4000, 'sha256');
  using cipher = await makeSectorCipher(spec, slotKey);
  cipher.encrypt(0, material);
  const digest = await primitives().pbkdf2('sha256', key, salt, 1000, 32);
  const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64');
  const json: Luks2Json = {
    keyslots: {
      '0': {
        type: 'luks2',
        key_size: keyBytes,
        af: { type: 'luks1', stripes: 4000, hash: 'sha256' },
        area: {
          type: 'raw',
          offset: String(2 * copyBytes),
          size: String(areaBytes),
          encryption: 'aes-xts-plain64',
          key_size: keyBytes,
        },
        kdf: { type: 'pbkdf2', hash: 'sha256', iterations: 1000, salt: base64(salt) },
      },
    },
    tokens: {},
    segments: {
      '0': {
        type: 'crypt',
        offset: String(payloadAt),
        size: 'dynamic',
        iv_tweak: '0',
        encryption: 'aes-xts-plain64',
        sector_size: 512,
      },
    },
    digests: {
      '0': {
        type: 'pbkdf2',
        keyslots: ['0'],
        segments: ['0'],
        hash: 'sha256',
        iterations: 1000,
        salt: base64(salt),
        digest: base64(digest),
      },
    },
    config: { json_size: String(copyBytes - 4096), keyslots_size: String(areaBytes) },
  };
  const bytes = new Uint8Array(payloadAt + payloadBytes);
  bytes.set(material, 2 * copyBytes);
  await writeCopies(bytes, json);
  return { bytes, json, key };
}

/** Lays both copies of a header with this JSON over the start of `bytes`. */
export async function writeCopies(
  bytes: Uint8Array,
  json: Luks2Json | string,
  sequences: readonly number[] = [3, 3],
): Promise<void> {
  for (const [index, sequence] of sequences.entries()) await writeCopy(bytes, index, json, sequence);
}

export async function writeCopy(
  bytes: Uint8Array,
  index: number,
  json: Luks2Json | string,
  sequence: number,
): Promise<void> {
  const copy = new Uint8Array(copyBytes);
  const view = new DataView(copy.buffer);
  const text = (at: number, value: string) => copy.set(new TextEncoder().encode(value), at);
  text(0, index === 0 ? 'LUKS' : 'SKUL');
  copy.set([0xba, 0xbe, 0, 2], 4);
  view.setBigUint64(8, BigInt(copyBytes));
  view.setBigUint64(16, BigInt(sequence));
  text(72, 'sha256');
  text(168, '93323bb4-2261-4341-9e45-8b6b7f97e17d');
  view.setBigUint64(256, BigInt(index * copyBytes));
  const area = new TextEncoder().encode(typeof json === 'string' ? json : JSON.stringify(json));
  copy.set(area.subarray(0, copyBytes - 4096), 4096);
  copy.set(await primitives().hash('sha256', copy), 448);
  bytes.set(copy, index * copyBytes);
}
