import { wipe } from '../../crypto/bytes.ts';
import { describeHeader } from '../../crypto/luks/describe.ts';
import { type LuksHeader, sectorBytes } from '../../crypto/luks/header.ts';
import { cipherOf, readHeader } from '../../crypto/luks/key-slots.ts';
import { unlockPayload } from '../../crypto/luks/open.ts';
import { EncryptedStore } from '../../storage/encrypted.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { OpenContext } from '../driver.ts';
import { requireSecret } from '../encryption.ts';
import { LuksLayer, WritableLuksLayer } from './layer.ts';

/**
 * Opens a LUKS image by the passphrase that `key-secret` names; without guest data (`metadataOnly`) it needs none. Throws
 * `denied` for a wrong passphrase, `corrupt` and `unsupported` as the header says.
 */
export async function openLuks(source: ByteSource, context: OpenContext): Promise<LuksLayer> {
  const keySecret = context.options?.['key-secret'];
  const needsKey = !context.metadataOnly;
  // QEMU asks for the passphrase before it looks at the header.
  const passphrase = needsKey ? await requireSecret(context, keySecret, '', source.name) : undefined;
  const header = await readHeader(source);
  cipherOf(header, source.name);
  const place = {
    ...placeOf(source, header),
    keySecret: keySecret === undefined ? undefined : String(keySecret),
  };
  if (!passphrase) return new LuksLayer(source, place);
  const { spec, key } = await unlockPayload(source, header, passphrase);
  const payload = await EncryptedStore.over(source, { spec, key, offset: place.offset });
  wipe(key);
  return context.writable
    ? new WritableLuksLayer(source, place, payload)
    : new LuksLayer(source, place, payload);
}

function placeOf(source: ByteSource, header: LuksHeader) {
  return {
    offset: header.payloadOffset * sectorBytes,
    details: async () => ({
      encrypted: true,
      dirty: false,
      formatSpecific: { type: 'luks', data: describeHeader(await readHeader(source)) },
    }),
  };
}
