import { createHeader, planHeader } from '../../../src/crypto/luks/create.ts';
import { describeHeader } from '../../../src/crypto/luks/describe.ts';
import { encodeHeader, headerBytes, type LuksHeader, parseHeader } from '../../../src/crypto/luks/header.ts';
import { cipherOf, readHeader } from '../../../src/crypto/luks/key-slots.ts';
import { unlockPayload } from '../../../src/crypto/luks/open.ts';
import { isDiskError } from '../../../src/errors.ts';
import { registerNodePrimitives } from '../../../src/platform/node-primitives.ts';
import { MemoryStore } from '../../../src/storage/memory.ts';
import type { Random } from '../../crash/random.ts';
import { Broken, type Target } from '../target.ts';

const passphrase = new TextEncoder().encode('fuzz');
/** More iterations than this are honest work: asked for, they only take their time. */
const quick = 5000;
/** Fields of a header, `[offset, width]`: numbers of 4 bytes and names. */
const fields: readonly (readonly [number, number])[] = [
  [0, 6],
  [6, 2],
  [8, 32],
  [40, 32],
  [72, 32],
  [104, 4],
  [108, 4],
  [164, 4],
  [168, 40],
  ...Array.from({ length: 8 }, (_, slot) =>
    [0, 4, 40, 44].map((at) => [208 + slot * 48 + at, 4] as const),
  ).flat(),
];
const numbers = [0, 1, 2, 7, 8, 64, 1000, 4000, 4096, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x00ac71f3];
const names = [
  'aes',
  'serpent',
  'xts-plain64',
  'cbc-essiv:sha256',
  'cbc-essiv:',
  'ecb-',
  '-',
  'sha1',
  'md5',
  '',
];

registerNodePrimitives();

let whole: Uint8Array;

/** LUKS1 headers that lie. Most are only parsed; those that ask for little work are tried with the passphrase. */
export const luksHeaders: Target = {
  name: 'LUKS headers',
  share: 0.1,
  async prepare() {
    const plan = planHeader({ 'cipher-alg': 'aes-128', 'hash-alg': 'sha1', 'iter-time': 0 });
    const store = new MemoryStore({ name: 'seed', bytes: new Uint8Array(plan.payloadOffset + 4096) });
    await createHeader(store, plan, passphrase);
    whole = store.toBytes();
  },
  draw(random) {
    const bytes = whole.slice(0, headerBytes);
    const view = new DataView(bytes.buffer);
    for (let edits = random.between(0, 3); edits > 0; edits--) {
      const [at, width] = random.pick(fields);
      if (width === 4) view.setUint32(at, numberNear(random, view.getUint32(at)));
      else if (width > 8 && random.chance(0.7)) writeName(random, bytes.subarray(at, at + width));
      else bytes[at + random.below(width)] = random.below(256);
    }
    const cut = random.chance(0.05) ? random.below(headerBytes) : headerBytes;
    return { header: Buffer.from(bytes.subarray(0, cut)).toString('base64') };
  },
  freeze: (input) => input,
  async run(input) {
    const header = Buffer.from((input as { readonly header: string }).header, 'base64');
    const bytes = header.length < headerBytes ? new Uint8Array(header) : new Uint8Array(whole ?? headerBytes);
    bytes.set(header.subarray(0, bytes.length));
    try {
      const store = new MemoryStore({ name: 'fuzzed', bytes });
      const read = await readHeader(store);
      describeHeader(read);
      // The same header, once more: nothing that is read may be lost in writing.
      expectSame(read, parseHeader(encodeHeader(read)));
      cipherOf(read, 'fuzzed');
      const work = read.slots.reduce((sum, slot) => sum + (slot.active ? slot.iterations : 0), 0);
      if (work + read.digestIterations * 8 <= quick * 8) await unlockPayload(store, read, passphrase);
      return 'accepted';
    } catch (error) {
      if (isDiskError(error)) return 'refused';
      throw error;
    }
  },
};

function numberNear(random: Random, value: number): number {
  return random.chance(0.5) ? random.pick(numbers) : (value + random.between(0, 4) - 2) >>> 0;
}

function writeName(random: Random, field: Uint8Array): void {
  field.fill(random.chance(0.1) ? 0x61 : 0);
  field.set(Buffer.from(random.pick(names)).subarray(0, field.length));
}

function expectSame(one: LuksHeader, other: LuksHeader): void {
  if (JSON.stringify(one) !== JSON.stringify(other))
    throw new Broken('a header does not survive being written');
}
