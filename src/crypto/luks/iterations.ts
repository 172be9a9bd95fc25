import { DiskError } from '../../errors.ts';
import { type HashName, primitives } from '../primitives.ts';

const longEnough = 25;
const mostIterations = 0xffff_ffff;

/**
 * Iterations of all key slots that are tried for one passphrase: about a minute. A header that asks for more is one that
 * wants to keep its reader busy.
 */
export const affordableIterations = 2 ** 27;

/** KiB that one Argon2 slot may take: twice what cryptsetup takes for itself, and what WebAssembly can address. */
export const affordableMemory = 2 ** 21;

/** Passes over a KiB in all Argon2 slots that are tried: 16 slots of what cryptsetup asks for, some minutes. */
export const affordablePasses = 2 ** 26;

/**
 * The iterations that take `milliseconds` here for a key of `length` bytes, divided by `share`, and `least` at least. Throws
 * `out-of-range` where that is more than a header can say.
 */
export async function iterationsFor(
  milliseconds: number,
  hash: HashName,
  length: number,
  { share = 1, least = 1000, signal = undefined as AbortSignal | undefined } = {},
): Promise<number> {
  if (milliseconds === 0) return least;
  return Math.max(least, scaleIterations(await iterationsASecond(hash, length, signal), milliseconds, share));
}

async function iterationsASecond(
  hash: HashName,
  length: number,
  signal: AbortSignal | undefined,
): Promise<number> {
  const password = new Uint8Array(16);
  const salt = new Uint8Array(32);
  for (let iterations = 1 << 12; ; ) {
    const started = performance.now();
    await primitives().pbkdf2(hash, password, salt, iterations, length, signal);
    const took = performance.now() - started;
    if (took >= longEnough) return Math.round((iterations * 1000) / took);
    iterations *= took < 1 ? 16 : Math.max(2, Math.ceil(longEnough / took));
  }
}

function scaleIterations(aSecond: number, milliseconds: number, share: number): number {
  const scaled = Math.floor((aSecond * milliseconds) / 1000 / share);
  if (aSecond * milliseconds >= 2 ** 64) {
    throw tooMany(`PBKDF iterations ${aSecond} too large to scale: Numerical result out of range`);
  }
  if (scaled > mostIterations) {
    throw tooMany(`PBKDF iterations ${scaled} larger than ${mostIterations}: Numerical result out of range`);
  }
  return scaled;
}

function tooMany(message: string): DiskError {
  return new DiskError('out-of-range', message, { field: 'iter-time' });
}
