const suffixes = 'bkmgtpe';
const u64Limit = 1n << 64n;

/** What a size text means: bytes, or why not. `hexSuffix`: deprecated, and QEMU warns of it. */
export type ParsedSize =
  | { readonly kind: 'size'; readonly bytes: bigint; readonly hexSuffix: boolean }
  | { readonly kind: 'invalid' }
  | { readonly kind: 'too-large' };

/**
 * A size as QEMU reads one: decimal (leading zeroes mean nothing) or 0x hexadecimal bytes, or with a suffix of
 * 1024's powers (any case). A fraction needs a suffix past B: 1.5k. Blanks and a plus may precede it.
 */
export function parseSize(text: string): ParsedSize {
  const match = /^[ \t\n\v\f\r]*\+?(?:(0[xX][0-9a-fA-F]+)|([0-9]+)(\.[0-9]*)?)([bkmgtpeBKMGTPE]?)$/.exec(
    text,
  );
  if (!match) return { kind: 'invalid' };
  const [, hex, decimal, fraction, suffix] = match;
  const power = suffix === '' ? 0 : suffixes.indexOf(suffix.toLowerCase());
  const unit = 1n << BigInt(10 * power);
  const part = fraction && fraction.length > 1 ? Number(`0${fraction}`) : 0;
  if (part !== 0 && power === 0) return { kind: 'invalid' };
  const whole = BigInt(hex ?? decimal);
  if (whole >= u64Limit) return { kind: 'too-large' };
  // QEMU adds the fraction in double arithmetic and rounds half up.
  const bytes = whole * unit + BigInt(Math.floor(part * Number(unit) + 0.5));
  if (bytes >= u64Limit) return { kind: 'too-large' };
  return { kind: 'size', bytes, hexSuffix: hex !== undefined && suffix !== '' };
}
