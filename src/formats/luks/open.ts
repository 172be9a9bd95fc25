import { wipe } from '../../crypto/bytes.ts';
import { describeHeader } from '../../crypto/luks/describe.ts';
import { sectorBytes } from '../../crypto/luks/header.ts';
import { cipherOf, readHeader } from '../../crypto/luks/key-slots.ts';
import { type PayloadKey, type Unlocking, unlockPayload } from '../../crypto/luks/open.ts';
import { describeLuks2 } from '../../crypto/luks2/describe.ts';
import { hasLuks2, readCopies } from '../../crypto/luks2/header.ts';
import { understandHeader } from '../../crypto/luks2/metadata.ts';
import { unlockLuks2 } from '../../crypto/luks2/unlock.ts';
import { DiskError } from '../../errors.ts';
import { EncryptedStore } from '../../storage/encrypted.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { OpenContext } from '../driver.ts';
import { openingSecret } from '../encryption.ts';
import { LuksLayer, type PayloadPlace, WritableLuksLayer } from './layer.ts';

/** What a header of either version says of the payload. */
interface HeaderFacts extends Omit<PayloadPlace, 'keySecret' | 'headerFile'> {
  /** Added to a sector's number for its initialisation vector. */
  readonly firstSector?: number;
  unlock(passphrase: Uint8Array): Promise<PayloadKey>;
}

/**
 * Opens a LUKS image by the passphrase that `key-secret` names; without guest data (`metadataOnly`) it needs none. Throws
 * `denied` for a wrong passphrase, `corrupt` and `unsupported` as the header says.
 */
export async function openLuks(source: ByteSource, context: OpenContext): Promise<LuksLayer> {
  const named = context.options?.['key-secret'];
  if (context.metadataOnly) {
    return openWith({ id: named === undefined ? undefined : String(named) }, source, context);
  }
  // QEMU asks for the passphrase before it looks at the header.
  const secret = await openingSecret(context, named, '', source.name);
  try {
    return await openWith(secret, source, context);
  } finally {
    wipe(secret.passphrase);
  }
}

async function openWith(
  { id: keySecret, passphrase }: { readonly id: string | undefined; readonly passphrase?: Uint8Array },
  source: ByteSource,
  context: OpenContext,
): Promise<LuksLayer> {
  const { headerFile: header = source } = context;
  const detached = header !== source;
  const newer = await hasLuks2(header);
  const facts = newer
    ? await factsOfLuks2(header, detached, context)
    : await factsOfLuks1(header, detached, context);
  // QEMU, which knows the older version only, looks for the key first.
  if (newer || !passphrase) assertPayloadThere(source, facts);
  const place: PayloadPlace = { ...facts, headerFile: context.headerFile, keySecret };
  if (!passphrase) return new LuksLayer(source, place);
  const { spec, key } = await facts.unlock(passphrase);
  try {
    assertPayloadThere(source, facts);
    const { offset, size, firstSector } = facts;
    const payload = await EncryptedStore.over(source, { spec, key, offset, size, firstSector });
    return context.writable
      ? new WritableLuksLayer(source, place, payload)
      : new LuksLayer(source, place, payload);
  } finally {
    wipe(key);
  }
}

/** A file that was cut short is no smaller disk. QEMU words it so. */
function assertPayloadThere(source: ByteSource, { offset, size = 0 }: HeaderFacts): void {
  if (offset + size <= source.size) return;
  throw new DiskError('corrupt', 'Could not refresh total sector count: Input/output error', {
    path: source.name,
    field: 'payload offset',
    detail: { end: offset + size, size: source.size },
  });
}

async function factsOfLuks1(area: ByteSource, detached: boolean, unlocking: Unlocking): Promise<HeaderFacts> {
  const header = await readHeader(area, { detached });
  cipherOf(header, area.name);
  return {
    offset: header.payloadOffset * sectorBytes,
    unlock: (passphrase) => unlockPayload(area, header, passphrase, unlocking),
    details: async () => ({
      encrypted: true,
      dirty: false,
      formatSpecific: { type: 'luks', data: describeHeader(await readHeader(area, { detached }), detached) },
    }),
  };
}

async function factsOfLuks2(area: ByteSource, detached: boolean, unlocking: Unlocking): Promise<HeaderFacts> {
  const header = understandHeader(await readCopies(area), area.name);
  const { offset, size, firstSector, spec } = header.segment;
  if (!detached && offset === 0) {
    throw new DiskError('corrupt', 'The LUKS2 payload lies in another file than its header', {
      path: area.name,
      field: 'segments.offset',
    });
  }
  return {
    offset,
    size,
    firstSector,
    wholeUnits: spec.sectorBytes,
    unlock: (passphrase) => unlockLuks2(area, header, passphrase, unlocking),
    details: async () => ({
      encrypted: true,
      dirty: false,
      formatSpecific: {
        type: 'luks',
        data: { ...describeLuks2(header), ...(detached ? { 'detached-header': true } : {}) },
      },
    }),
  };
}
