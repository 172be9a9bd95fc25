import { DiskError } from '../../errors.ts';
import type { CipherSpec } from '../sector-cipher.ts';
import type { LuksHeader } from './header.ts';
import { cipherOf, type HeaderArea, unlock } from './key-slots.ts';

/** How a payload is encrypted. The caller wipes the key. */
export interface PayloadKey {
  readonly spec: CipherSpec;
  readonly key: Uint8Array;
}

/** Finds the master key by a passphrase. Throws `denied` where it fits no slot, `aborted` at the signal. */
export async function unlockPayload(
  area: HeaderArea,
  header: LuksHeader,
  passphrase: Uint8Array,
  signal?: AbortSignal,
): Promise<PayloadKey> {
  const { spec } = cipherOf(header, area.name);
  const unlocked = await unlock(area, header, passphrase, signal);
  if (unlocked) return { spec, key: unlocked.key };
  throw invalidPassword(area.name);
}

export function invalidPassword(path: string): DiskError {
  return new DiskError('denied', 'Invalid password, cannot unlock any keyslot', {
    path,
    field: 'key-secret',
  });
}
