import { DiskError } from '../errors.ts';

/** What all compressions share that copy from what came out before. */

/**
 * Copies `length` bytes from `distance` bytes before `out` to there, one after the other: what is copied may be copied again. Answers
 * where it ends. Throws `corrupt` for a distance past the beginning, or of none.
 */
export function copyMatch(into: Uint8Array, out: number, distance: number, length: number): number {
  if (length === 0) return out;
  if (!(distance > 0 && distance <= out)) throw damaged(`a distance of ${distance} at byte ${out}`);
  if (distance >= length) into.copyWithin(out, out - distance, out - distance + length);
  else for (let done = 0; done < length; done++) into[out + done] = into[out + done - distance];
  return out + length;
}

export function damaged(reason: string): DiskError {
  return new DiskError('corrupt', `The compressed data is damaged: ${reason}`, { detail: { errno: 'EIO' } });
}
