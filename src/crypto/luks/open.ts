import { DiskError } from '../../errors.ts';
import type { CipherSpec } from '../sector-cipher.ts';
import type { LuksHeader } from './header.ts';
import type { KeyRing } from './key-ring.ts';
import { cipherOf, type HeaderArea, unlock } from './key-slots.ts';

/** How a payload is encrypted. The caller wipes the key. */
export interface PayloadKey {
  readonly spec: CipherSpec;
  readonly key: Uint8Array;
}

export interface Unlocking {
  readonly signal?: AbortSignal;
  readonly keyRing?: KeyRing;
}

/** Finds the master key by a passphrase. Throws `denied` where it fits no slot, the signal's reason. */
export async function unlockPayload(
  area: HeaderArea,
  header: LuksHeader,
  passphrase: Uint8Array,
  { signal, keyRing }: Unlocking = {},
): Promise<PayloadKey> {
  const { spec } = cipherOf(header, area.name);
  const known = keyRing?.find?.(header.digest, header.digestSalt);
  if (known) return { spec, key: known };
  const unlocked = await unlock(area, header, passphrase, signal);
  if (!unlocked) throw invalidPassword(area.name);
  keyRing?.keep?.(header.digest, header.digestSalt, unlocked.key);
  return { spec, key: unlocked.key };
}

export function invalidPassword(path: string): DiskError {
  return new DiskError('denied', 'Invalid password, cannot unlock any keyslot', {
    path,
    field: 'key-secret',
  });
}
