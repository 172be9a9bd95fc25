import { wipe } from '../../crypto/bytes.ts';
import { describeHeader } from '../../crypto/luks/describe.ts';
import { readHeader as readLuksHeader } from '../../crypto/luks/key-slots.ts';
import { type Unlocking, unlockPayload } from '../../crypto/luks/open.ts';
import type { CipherSpec } from '../../crypto/sector-cipher.ts';
import { DiskError } from '../../errors.ts';
import { EncryptedStore } from '../../storage/encrypted.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import { windowedSource } from '../../storage/window.ts';
import type { OpenContext } from '../driver.ts';
import { openingSecret } from '../encryption.ts';
import { Autoclear, CryptMethod } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';
import { cryptoOf } from './extensions.ts';
import type { Qcow2Header } from './header.ts';
import { LegacyAes } from './legacy-aes.ts';

/** What shows guest data in the clear. */
export interface Decryption {
  /** Over the file that guest clusters lie in: a sector's number is that of its place there. */
  guestOver?(data: ByteSource, owned: boolean): Promise<EncryptedStore>;
  /** Where a sector's number is the guest's. */
  readonly legacy?: LegacyAes;
  readonly keySecret: string;
}

const optionNames = { format: 'encrypt.format', secret: 'encrypt.key-secret' } as const;

/** The name of an image's encryption; undefined: none. */
export function encryptionOf(header: Qcow2Header): 'aes' | 'luks' | undefined {
  if (header.cryptMethod === CryptMethod.none) return undefined;
  return header.cryptMethod === CryptMethod.luks ? 'luks' : 'aes';
}

/** Where the LUKS header lies: its own window of the image. Throws `corrupt` where the image does not say. */
export function luksArea(source: ByteSource, header: Qcow2Header): ByteStore {
  const place = cryptoOf(header);
  if (!place || place.offset + place.length > source.size) {
    const message = 'The LUKS header does not lie in the file';
    throw corrupt(source.name, 'crypto header', message, place?.offset, { errno: 'EINVAL' });
  }
  return windowedSource(source, { offset: place.offset, size: place.length }) as ByteStore;
}

/** What `info` shows of the encryption, by QEMU's keys. */
export async function describeEncryption(
  source: ByteSource,
  header: Qcow2Header,
): Promise<Record<string, unknown> | undefined> {
  const format = encryptionOf(header);
  if (format === undefined) return undefined;
  if (format === 'aes' || !cryptoOf(header)) return { format };
  return { format, ...describeHeader(await readLuksHeader(luksArea(source, header))) };
}

/**
 * Opens an image's encryption by the secret that the options name. Undefined: the image has none, or only its header is
 * wanted. Throws `bad-argument` for options that do not fit, `denied` for a wrong passphrase, `unsupported`.
 */
export async function openEncryption(
  source: ByteSource,
  header: Qcow2Header,
  context: OpenContext,
): Promise<Decryption | undefined> {
  const format = encryptionOf(header);
  checkFormat(source.name, format, context.options?.[optionNames.format]);
  if (format === undefined || context.metadataOnly) return undefined;
  if (format === 'aes' && context.writable) {
    const message = "Images with the legacy encryption 'aes' can only be read: convert them";
    throw unsupported(source.name, 'crypt_method', message, { method: 'aes' });
  }
  if (context.writable && (header.autoclearFeatures & Autoclear.dataFileRaw) !== 0n) {
    throw unsupported(source.name, 'data file', 'An encrypted raw data file can only be read');
  }
  const named = context.options?.[optionNames.secret];
  const { id, passphrase } = await openingSecret(context, named, 'encrypt.', source.name);
  try {
    return await decryptionBy(passphrase, source, header, {
      format,
      keySecret: id,
      unlocking: context,
    });
  } finally {
    wipe(passphrase);
  }
}

async function decryptionBy(
  passphrase: Uint8Array,
  source: ByteSource,
  header: Qcow2Header,
  how: { readonly format: 'aes' | 'luks'; readonly keySecret: string; readonly unlocking: Unlocking },
): Promise<Decryption> {
  const { format, keySecret, unlocking } = how;
  if (format === 'aes') return { keySecret, legacy: await LegacyAes.withPassword(passphrase) };
  const area = luksArea(source, header);
  const { spec, key } = await unlockPayload(area, await readLuksHeader(area), passphrase, unlocking);
  return {
    keySecret,
    async guestOver(data, owned) {
      try {
        return await over(data, spec, key, owned);
      } finally {
        wipe(key);
      }
    },
  };
}

function over(data: ByteSource, spec: CipherSpec, key: Uint8Array, owned: boolean): Promise<EncryptedStore> {
  return EncryptedStore.over(data, { spec, key, owned });
}

function checkFormat(path: string, format: string | undefined, wanted: unknown): void {
  if (wanted === undefined || wanted === format) return;
  const message =
    format === undefined
      ? `No encryption in image header, but options specified format '${wanted}'`
      : `Header reported '${format}' encryption format but options specify '${wanted}'`;
  throw new DiskError('bad-argument', message, { path, field: optionNames.format });
}
