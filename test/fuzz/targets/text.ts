import type { Random } from '../../crash/random.ts';

/** A text made of parts of sound ones, with something wrong in it. */
export function mutateText(random: Random, samples: readonly string[], tokens: readonly string[]): string {
  let text = random.pick(samples);
  for (let left = random.pick([0, 1, 1, 2, 3, 5, 9]); left > 0; left -= 1) {
    const at = random.below(text.length + 1);
    const end = Math.min(text.length, at + random.pick([0, 0, 1, 1, 2, 5, 20]));
    const insert = random.weighted<() => string>([
      [6, () => random.pick(tokens)],
      [3, () => strangeCharacter(random)],
      [2, () => strangeNumber(random)],
      [2, () => slice(random, random.pick(samples))],
      [2, () => ''],
      [1, () => random.pick(tokens).repeat(random.pick([2, 2, 10, 10, 10, 300, 300, 300, 300, 5000]))],
    ])();
    text = text.slice(0, at) + insert + text.slice(end);
  }
  return text;
}

function slice(random: Random, text: string): string {
  const at = random.below(text.length + 1);
  return text.slice(at, at + random.below(80));
}

function strangeCharacter(random: Random): string {
  return random.weighted<() => string>([
    [4, () => String.fromCharCode(random.between(32, 126))],
    [2, () => String.fromCharCode(random.below(32))],
    [1, () => String.fromCharCode(random.between(0x80, 0xffff))],
    [1, () => random.pick(['\0', '\ud800', '\u2028', '\ufeff', '\r\n', '\t', '😀', 'ﬃ', '٣'])],
  ])();
}

export function strangeNumber(random: Random): string {
  const sign = random.pick(['', '', '-', '+']);
  const value = random.weighted<() => string>([
    [3, () => String(random.below(300))],
    [2, () => String(2n ** BigInt(random.between(7, 70)) + BigInt(random.between(-1, 1)))],
    [2, () => `0x${(2n ** BigInt(random.between(3, 70)) - 1n).toString(16)}`],
    [1, () => `${random.below(10)}.${random.below(1000)}`],
    [1, () => '9'.repeat(random.pick([15, 16, 20, 400]))],
    [1, () => random.pick(['1e9', '1e400', 'NaN', 'Infinity', '0', '00', '.5', '5.', '0x', '1_000'])],
  ])();
  return sign + value + random.pick(['', '', 'k', 'M', 'G', 'T', 'P', 'E', 'b', 'KiB', ' ']);
}
