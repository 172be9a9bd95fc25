import { maxOffset } from '../bytes/numbers.ts';
import { parseSize } from '../bytes/size-text.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import { warn } from './messages.ts';

export { parseSize };

export const int64Max = (1n << 63n) - 1n;

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
