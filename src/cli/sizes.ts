import { maxOffset } from '../bytes/numbers.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import { warn } from './messages.ts';

/** What a size text means: bytes, or why not. `hexSuffix`: deprecated, and QEMU warns of it. */
export type ParsedSize =
  | { readonly kind: 'size'; readonly bytes: bigint; readonly hexSuffix: boolean }
  | { readonly kind: 'invalid' }
  | { readonly kind: 'too-large' };

const suffixes = 'bkmgtpe';
const u64Limit = 1n << 64n;
export const int64Max = (1n << 63n) - 1n;

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

/** Prints QEMU's warning for a hexadecimal number with a suffix. */
export function warnOfHexSuffix(context: CliContext, text: string): void {
  warn(context, `Using a multiplier suffix on hex numbers is deprecated: ${text}`);
}

/**
 * An argument that is a size, within [`min`, `max`], as qemu-img's verbs read theirs. `what` names it in the
 * message ('image size'). Throws CliFailure with `exitCode`.
 */
export function sizeArgument(
  context: CliContext,
  what: string,
  text: string,
  { min = 0n, max = int64Max, exitCode = 1 }: { min?: bigint; max?: bigint; exitCode?: number } = {},
): bigint {
  const parsed = parseSize(text);
  if (parsed.kind === 'invalid') {
    throw new CliFailure(
      `Invalid ${what} specified. You may use k, M, G, T, P or E suffixes for\n` +
        `${context.program}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
      { exitCode },
    );
  }
  if (parsed.kind === 'size' && parsed.hexSuffix) warnOfHexSuffix(context, text);
  if (parsed.kind === 'too-large' || parsed.bytes > max || parsed.bytes < min) {
    throw new CliFailure(`Invalid ${what} specified. Must be between ${min} and ${max}.`, { exitCode });
  }
  return parsed.bytes;
}

/** A size as an offset of the engine. Past 2^53 - 1 there is no image that we could handle. */
export function toOffset(bytes: bigint, what: string): number {
  if (bytes > BigInt(maxOffset)) {
    throw new CliFailure(`The ${what} of ${bytes} bytes is past what is supported (${maxOffset} bytes)`);
  }
  return Number(bytes);
}

const binaryPrefixes = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];

/** Bytes for people, as QEMU writes them: three significant digits, `1.5 GiB`, `0 B`. */
export function humanSize(bytes: number | bigint): string {
  const value = BigInt(Math.max(0, Math.trunc(Number(bytes))));
  // QEMU goes over to the next prefix where the figure would reach 1000, not 1024.
  let power = 0;
  while (power < binaryPrefixes.length - 1 && value >= 1000n << BigInt(10 * power)) power++;
  return `${threeDigits(value, 1n << BigInt(10 * power))} ${binaryPrefixes[power]}B`;
}

/** C's `%0.3g` of value / unit, where that is below 1000: exact, and half goes to even as in C. */
function threeDigits(value: bigint, unit: bigint): string {
  let decimals = 0;
  while (decimals < 3 && value * 10n ** BigInt(decimals) < 100n * unit) decimals++;
  const scaled = value * 10n ** BigInt(decimals);
  let digits = scaled / unit;
  const twiceRest = (scaled % unit) * 2n;
  if (twiceRest > unit || (twiceRest === unit && digits % 2n === 1n)) digits++;
  return decimals === 0 && digits === 1000n ? '1e+03' : String(Number(digits) / 10 ** decimals);
}
