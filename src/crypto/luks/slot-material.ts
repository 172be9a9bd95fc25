import { wipe } from '../bytes.ts';
import type { HashName } from '../primitives.ts';
import { type CipherSpec, makeSectorCipher } from '../sector-cipher.ts';
import { mergeKey } from './af-splitter.ts';

/** How a key lies in a slot's key material. */
export interface SlotShape {
  readonly spec: CipherSpec;
  /** Of the anti-forensic splitter. */
  readonly hash: HashName;
  readonly stripes: number;
  /** Of the key inside. */
  readonly keyBytes: number;
}

/** The key that lies in a slot's material, if `slotKey` is the slot's. Wipes both. */
export async function keyInMaterial(
  material: Uint8Array,
  slotKey: Uint8Array,
  { spec, hash, stripes, keyBytes }: SlotShape,
): Promise<Uint8Array> {
  try {
    using cipher = await makeSectorCipher(spec, slotKey);
    cipher.decrypt(0, material);
    return await mergeKey(material.subarray(0, keyBytes * stripes), keyBytes, stripes, hash);
  } finally {
    wipe(slotKey, material);
  }
}
