import { DiskError } from '../../errors.ts';
import { equalBytes, wipe } from '../bytes.ts';
import { sectorBytes } from '../luks/header.ts';
import { affordableIterations, affordableMemory, affordablePasses } from '../luks/iterations.ts';
import type { HeaderArea } from '../luks/key-slots.ts';
import { invalidPassword, type PayloadKey, type Unlocking } from '../luks/open.ts';
import { keyInMaterial } from '../luks/slot-material.ts';
import { primitives } from '../primitives.ts';
import type { Kdf, Luks2Header, Luks2Slot } from './metadata.ts';

/**
 * Finds the volume key by a passphrase. Slots are tried one after the other, since each may take a gigabyte; a passphrase
 * that fits none so takes the same time whatever it is. Throws `denied` where it fits none, `unsupported` where no slot
 * can be tried, `corrupt` for a header that asks for more work than anybody would, `aborted` at the signal.
 */
export async function unlockLuks2(
  area: HeaderArea,
  header: Luks2Header,
  passphrase: Uint8Array,
  { signal, keyRing }: Unlocking = {},
): Promise<PayloadKey> {
  const { slots, refused, digest, segment } = header;
  const known = keyRing?.find?.(digest.digest, digest.salt);
  if (known) return { spec: segment.spec, key: known };
  if (slots.length === 0 && refused.length > 0) throw refused[0];
  checkCost(header, area.name);
  for (const slot of slots) {
    signal?.throwIfAborted();
    const key = await openSlot(area, slot, passphrase, signal);
    const found = await primitives().pbkdf2(
      digest.hash,
      key,
      digest.salt,
      digest.iterations,
      digest.digest.length,
      signal,
    );
    if (equalBytes(found, digest.digest)) {
      keyRing?.keep?.(digest.digest, digest.salt, key);
      return { spec: segment.spec, key };
    }
    wipe(key);
  }
  throw invalidPassword(area.name);
}

async function openSlot(
  area: HeaderArea,
  slot: Luks2Slot,
  passphrase: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const material = new Uint8Array(Math.ceil((slot.keyBytes * slot.stripes) / sectorBytes) * sectorBytes);
  await area.read(slot.areaOffset, material);
  const slotKey = await derive(slot.kdf, passphrase, slot.areaKeyBytes, area.name, signal);
  return keyInMaterial(material, slotKey, slot);
}

async function derive(
  kdf: Kdf,
  passphrase: Uint8Array,
  length: number,
  path: string,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const { argon2, pbkdf2 } = primitives();
  if (kdf.type === 'pbkdf2') {
    return pbkdf2.call(primitives(), kdf.hash, passphrase, kdf.salt, kdf.iterations, length, signal);
  }
  if (argon2) return argon2.call(primitives(), kdf.type, passphrase, kdf.salt, kdf.cost, length, signal);
  throw new DiskError('unsupported', `This runtime has no ${kdf.type}`, { path, field: 'kdf' });
}

/** Before anything is computed: the work of all slots, and the memory of each. */
function checkCost({ slots, digest }: Luks2Header, path: string): void {
  let iterations = slots.length * digest.iterations;
  let passes = 0;
  let memory = 0;
  for (const { kdf } of slots) {
    if (kdf.type === 'pbkdf2') iterations += kdf.iterations;
    else {
      passes += kdf.cost.passes * kdf.cost.kibibytes;
      memory = Math.max(memory, kdf.cost.kibibytes);
    }
  }
  const costs = [
    ['iterations', iterations, affordableIterations, 'iterations of PBKDF2'],
    ['memory', memory, affordableMemory, 'KiB of memory for Argon2'],
    ['time', passes, affordablePasses, 'passes over a KiB of memory for Argon2'],
  ] as const;
  for (const [field, asked, limit, what] of costs) {
    if (asked <= limit) continue;
    throw new DiskError('corrupt', `The key slots ask for ${asked} ${what}; the limit is ${limit}`, {
      path,
      field,
      detail: { asked, limit },
    });
  }
}
