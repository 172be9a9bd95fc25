import { DiskError } from '../../errors.ts';
import { equalBytes, wipe } from '../bytes.ts';
import { primitives, randomBytes } from '../primitives.ts';
import { makeSectorCipher } from '../sector-cipher.ts';
import { splitKey } from './af-splitter.ts';
import { type LuksCipher, understandCipher } from './cipher-names.ts';
import * as h from './header.ts';
import { affordableIterations } from './iterations.ts';
import { keyInMaterial } from './slot-material.ts';

/** The bytes that a header and its key material lie in. */
export interface HeaderArea {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  read(at: number, into: Uint8Array): Promise<void>;
}
export interface WritableHeaderArea extends HeaderArea {
  write(at: number, from: Uint8Array): Promise<void>;
  flush(): Promise<void>;
}

/** The most that a key may have: two AES-256 keys. */
export const mostKeyBytes = 64;

/** Reads and checks the header at the start of `area`. Throws `corrupt`, `unsupported`, `io`. */
export async function readHeader(area: HeaderArea, how?: h.HeaderReading): Promise<h.LuksHeader> {
  const bytes = new Uint8Array(h.headerBytes);
  await area.read(0, bytes.subarray(0, Math.min(bytes.length, area.size)));
  return h.parseHeader(bytes, area.name, how);
}

/** The ciphers that a header names. Throws `unsupported` by name. */
export function cipherOf(header: h.LuksHeader, path?: string): LuksCipher {
  return understandCipher(header, header.keyBytes, path);
}

/** Slots whose passphrase this is, by number, and the master key that is in them. The caller wipes the key. */
export interface Unlocked {
  readonly key: Uint8Array;
  readonly slots: readonly number[];
}

/**
 * Tries a passphrase on every active slot. All are tried, whichever fits, so that the time tells nothing of it. Undefined:
 * it fits none. Throws `corrupt` for a header that asks for more work than anybody would, the signal's reason.
 */
export async function unlock(
  area: HeaderArea,
  header: h.LuksHeader,
  passphrase: Uint8Array,
  signal?: AbortSignal,
): Promise<Unlocked | undefined> {
  const cipher = cipherOf(header, area.name);
  const active = [...header.slots.entries()].filter(([, slot]) => slot.active);
  const work = active.reduce((sum, [, slot]) => sum + slot.iterations + header.digestIterations, 0);
  if (work > affordableIterations || header.keyBytes > mostKeyBytes) {
    throw new DiskError('corrupt', `The key slots ask for ${work} iterations of PBKDF2`, {
      path: area.name,
      field: 'iterations',
      detail: { iterations: work, limit: affordableIterations, errno: 'EINVAL' },
    });
  }
  const tried = await Promise.all(
    active.map(([, slot]) => openSlot(area, header, slot, cipher, passphrase, signal)),
  );
  const slots: number[] = [];
  let key: Uint8Array | undefined;
  for (const [at, found] of tried.entries()) {
    if (found) slots.push(active[at][0]);
    if (found && !key) key = found;
    else wipe(found);
  }
  return key && { key, slots };
}

async function openSlot(
  area: HeaderArea,
  header: h.LuksHeader,
  slot: h.KeySlot,
  { spec, hash }: LuksCipher,
  passphrase: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<Uint8Array | undefined> {
  const { keyBytes } = header;
  const material = new Uint8Array(Math.ceil(h.materialBytes(keyBytes) / h.sectorBytes) * h.sectorBytes);
  const at = slot.keyOffset * h.sectorBytes;
  // What was cut off reads as zeroes, which hold no key.
  await area.read(at, material.subarray(0, Math.max(0, area.size - at)));
  const { salt, iterations } = slot;
  const slotKey = await primitives().pbkdf2(hash, passphrase, salt, iterations, keyBytes, signal);
  const key = await keyInMaterial(material, slotKey, { spec, hash, stripes: slot.stripes, keyBytes });
  const digest = await digestOf(header, key, hash, signal);
  if (equalBytes(digest, header.digest)) return key;
  wipe(key);
  return undefined;
}

/** What the header says of the right master key. */
export function digestOf(
  header: Pick<h.LuksHeader, 'digestSalt' | 'digestIterations'>,
  key: Uint8Array,
  hash: LuksCipher['hash'],
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const { digestSalt, digestIterations } = header;
  return primitives().pbkdf2(hash, key, digestSalt, digestIterations, h.digestBytes, signal);
}

/**
 * Puts the master key into slot `index` under a passphrase: its material is durable before the header says that the slot
 * is in use. Gives the header as it is then.
 */
export async function fillSlot(
  area: WritableHeaderArea,
  header: h.LuksHeader,
  index: number,
  secrets: {
    readonly key: Uint8Array;
    readonly passphrase: Uint8Array;
    readonly iterations: number;
    readonly signal?: AbortSignal;
  },
): Promise<h.LuksHeader> {
  const { spec, hash } = cipherOf(header, area.name);
  const salt = randomBytes(h.saltBytes);
  const { iterations, passphrase, key, signal } = secrets;
  const slotKey = await primitives().pbkdf2(hash, passphrase, salt, iterations, header.keyBytes, signal);
  const split = await splitKey(key, h.stripes, hash);
  const material = new Uint8Array(Math.ceil(split.length / h.sectorBytes) * h.sectorBytes);
  material.set(split);
  try {
    using cipher = await makeSectorCipher(spec, slotKey);
    cipher.encrypt(0, material);
  } finally {
    wipe(split, slotKey);
  }
  const slot = { ...header.slots[index], active: true, iterations, salt, stripes: h.stripes };
  await area.write(slot.keyOffset * h.sectorBytes, material.subarray(0, h.materialBytes(header.keyBytes)));
  await area.flush();
  return writeHeader(area, withSlot(header, index, slot));
}

/**
 * Empties slot `index`: the header stops naming it first, durably, and then its material is overwritten with random bytes,
 * as often as QEMU does.
 */
export async function eraseSlot(
  area: WritableHeaderArea,
  header: h.LuksHeader,
  index: number,
): Promise<h.LuksHeader> {
  const old = header.slots[index];
  const slot = { ...old, active: false, iterations: 0, salt: new Uint8Array(h.saltBytes) };
  const after = await writeHeader(area, withSlot(header, index, slot));
  for (let round = 0; round < eraseRounds; round++) {
    await area.write(old.keyOffset * h.sectorBytes, randomBytes(h.materialBytes(header.keyBytes)));
    await area.flush();
  }
  return after;
}

const eraseRounds = 40;

export async function writeHeader(area: WritableHeaderArea, header: h.LuksHeader): Promise<h.LuksHeader> {
  await area.write(0, h.encodeHeader(header));
  await area.flush();
  return header;
}

function withSlot(header: h.LuksHeader, index: number, slot: h.KeySlot): h.LuksHeader {
  return { ...header, slots: header.slots.map((old, at) => (at === index ? slot : old)) };
}
