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
  const value = Number(bytes);
  // QEMU goes over to the next prefix where the figure would reach 1000, not 1024.
  const exponent = value === 0 ? 0 : Math.floor(Math.floor(Math.log2(value * 1.024) + 1e-15) / 10);
  return `${general(value / 2 ** (10 * exponent), 3)} ${binaryPrefixes[exponent]}B`;
}

/** C's `%.{digits}g`. */
function general(value: number, digits: number): string {
  if (value === 0) return '0';
  const exponent = Number(value.toExponential(digits - 1).split('e')[1]);
  if (exponent >= -4 && exponent < digits) {
    return String(Number(value.toFixed(digits - 1 - exponent)));
  }
  const [mantissa, power] = value.toExponential(digits - 1).split('e');
  const sign = power.startsWith('-') ? '-' : '+';
  return `${Number(mantissa)}e${sign}${power.replace(/^[+-]/, '').padStart(2, '0')}`;
}
