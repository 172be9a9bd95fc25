import { digestBytes, type HashName, primitives, randomBytes } from '../primitives.ts';

/**
 * The anti-forensic splitter (LUKS On-Disk Format Specification, section 2.4): a key is spread over `stripes` times its
 * length, so that it is lost when any of them is.
 */
export async function splitKey(key: Uint8Array, stripes: number, hash: HashName): Promise<Uint8Array> {
  const { length } = key;
  const split = randomBytes(length * stripes);
  const last = (stripes - 1) * length;
  const sum = await diffusedSum(split, length, stripes - 1, hash);
  for (let at = 0; at < length; at++) split[last + at] = sum[at] ^ key[at];
  return split;
}

/** The key of `length` bytes that was split. */
export async function mergeKey(
  split: Uint8Array,
  length: number,
  stripes: number,
  hash: HashName,
): Promise<Uint8Array> {
  const key = await diffusedSum(split, length, stripes - 1, hash);
  const last = (stripes - 1) * length;
  for (let at = 0; at < length; at++) key[at] ^= split[last + at];
  return key;
}

async function diffusedSum(
  split: Uint8Array,
  length: number,
  count: number,
  hash: HashName,
): Promise<Uint8Array> {
  let sum: Uint8Array = new Uint8Array(length);
  for (let stripe = 0; stripe < count; stripe++) {
    for (let at = 0; at < length; at++) sum[at] ^= split[stripe * length + at];
    sum = await diffuse(sum, hash);
  }
  return sum;
}

/** Each piece as long as a digest becomes the digest of its number and itself; the last is cut. */
async function diffuse(bytes: Uint8Array, name: HashName): Promise<Uint8Array> {
  const size = digestBytes[name];
  const mixed = new Uint8Array(bytes.length);
  const number = new Uint8Array(4);
  for (let at = 0, piece = 0; at < bytes.length; at += size, piece++) {
    new DataView(number.buffer).setUint32(0, piece);
    const part = bytes.subarray(at, at + size);
    const digest = await primitives().hash(name, number, part);
    mixed.set(digest.subarray(0, part.length), at);
  }
  return mixed;
}
