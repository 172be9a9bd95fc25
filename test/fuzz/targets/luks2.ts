import { describeLuks2 } from '../../../src/crypto/luks2/describe.ts';
import { hasLuks2, readCopies } from '../../../src/crypto/luks2/header.ts';
import { understandHeader } from '../../../src/crypto/luks2/metadata.ts';
import { unlockLuks2 } from '../../../src/crypto/luks2/unlock.ts';
import { isDiskError } from '../../../src/errors.ts';
import { registerNodePrimitives } from '../../../src/platform/node-primitives.ts';
import { MemoryStore } from '../../../src/storage/memory.ts';
import type { Random } from '../../crash/random.ts';
import { copyBytes, type Luks2Json, makeLuks2, writeCopy } from '../../support/luks2.ts';
import type { Target } from '../target.ts';

const passphrase = new TextEncoder().encode('fuzz');
/** More work than this is honest: asked for, it only takes its time. */
const quick = 20_000;
const tooMuch = 2 ** 30;
const values: readonly unknown[] = [
  ...[0, 1, -1, 3, 512, 4096, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, 0.5],
  ...[
    '0',
    '-1',
    '4096',
    '32768',
    '163840',
    '18446744073709551615',
    'dynamic',
    '',
    'aes-xts-plain64',
    'aes-cbc-essiv',
  ],
  ...['aes', 'argon2id', 'pbkdf2', 'sha1', 'luks2', 'reencrypt', 'AAAA', '='],
  ...[null, true, [], {}, ['0'], [0], { mandatory: ['x'] }],
];

registerNodePrimitives();

let whole: { readonly bytes: Uint8Array; readonly json: Luks2Json };

interface Input {
  /** The JSON of each copy. */
  readonly texts: readonly string[];
  readonly sequences: readonly number[];
  /** Bytes changed after the checksums were made, `[offset, value]`. */
  readonly bytes: readonly (readonly [number, number])[];
  readonly cut?: number;
}

/** LUKS2 headers that lie, in their JSON under checksums that fit, and in their bytes. */
export const luks2Headers: Target = {
  name: 'LUKS2 headers',
  share: 0.1,
  async prepare() {
    whole = await makeLuks2(passphrase, 4096);
  },
  draw(random): Input {
    const texts = [0, 1].map(() => drawText(random));
    const bytes = Array.from({ length: random.chance(0.3) ? random.between(1, 4) : 0 }, () => {
      const at = random.pick([0, 6, 8, 72, 256, 448, 4096]) + random.below(16) + random.pick([0, copyBytes]);
      return [at, random.below(256)] as const;
    });
    const cut = random.chance(0.05) ? random.below(whole.bytes.length) : undefined;
    return { texts, sequences: [random.below(3), random.below(3)], bytes, cut };
  },
  freeze: (input) => input,
  async run(input) {
    const { texts, sequences, bytes: changed, cut } = input as Input;
    whole ??= await makeLuks2(passphrase, 4096);
    const bytes = whole.bytes.slice();
    for (const [index, text] of texts.entries()) await writeCopy(bytes, index, text, sequences[index]);
    for (const [at, value] of changed) bytes[at] = value;
    const store = new MemoryStore({ name: 'fuzzed', bytes: bytes.slice(0, cut) });
    try {
      await hasLuks2(store);
      const header = understandHeader(await readCopies(store), 'fuzzed');
      describeLuks2(header);
      const work = header.slots.map(({ kdf }) =>
        kdf.type === 'pbkdf2' ? kdf.iterations : kdf.cost.passes * kdf.cost.kibibytes,
      );
      // What is beyond every limit is refused at once.
      const isQuick = work.every((one) => one <= quick) || work.some((one) => one > tooMuch);
      if (isQuick && header.digest.iterations <= quick) await unlockLuks2(store, header, passphrase);
      return 'accepted';
    } catch (error) {
      if (isDiskError(error)) return 'refused';
      throw error;
    }
  },
};

function drawText(random: Random): string {
  const json = structuredClone(whole.json);
  for (let edits = random.between(0, 3); edits > 0; edits--) edit(random, json);
  const text = JSON.stringify(json);
  return random.chance(0.05) ? text.slice(0, random.below(text.length)) : text;
}

/** Walks down to some field, and changes, removes or doubles it. */
function edit(random: Random, json: Luks2Json): void {
  let place = json;
  for (;;) {
    const names = Object.keys(place);
    if (names.length === 0) return;
    const name = random.pick(names);
    const value = place[name];
    if (typeof value === 'object' && value !== null && random.chance(0.9)) {
      place = value;
      continue;
    }
    const how = random.below(10);
    if (how === 0) delete place[name];
    else if (how === 1) place[String(random.below(40))] = structuredClone(value);
    else place[name] = random.pick(values);
    return;
  }
}
