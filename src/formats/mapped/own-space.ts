import { IntervalSet } from '../../bytes/intervals.ts';
import { DiskError } from '../../errors.ts';
import type { TwoLevelPlaces } from './two-level.ts';

/** Host bytes. */
export interface Room {
  readonly at: number;
  readonly length: number;
}

/**
 * What the format's own structures and the tables of a map with two levels take of the file, where nothing of a guest's
 * may be written. `end`: where new space begins, host bytes. Throws `corrupt` where they lie over each other or after
 * that.
 */
export function ownSpace(
  places: TwoLevelPlaces,
  options: { readonly path: string; readonly fixed: readonly Room[]; readonly end: number },
): IntervalSet {
  const own = new IntervalSet();
  const claim = ({ at, length }: Room) => {
    if (own.overlaps(at, at + length) || at + length > options.end) {
      throw new DiskError('corrupt', 'A table of the map lies over other data, or past the end of the file', {
        path: options.path,
        offset: at,
        field: 'map table',
        detail: { errno: 'EIO' },
      });
    }
    own.add(at, at + length);
  };
  for (const room of options.fixed) claim(room);
  for (const at of places.tables()) claim({ at, length: places.l2Bytes });
  return own;
}
