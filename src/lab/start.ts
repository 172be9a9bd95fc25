import { DiskError } from '../errors.ts';
import { describeSeats } from './describe.ts';
import { readImageHead } from './disks/overlay.ts';
import { type Lab, seatPaths } from './lab.ts';
import { assertPoolThere } from './pool/lost-pool.ts';
import type { Seat } from './seats/seat.ts';
import { assertKeyFits } from './seats/seat-key.ts';
import { assertMakeable } from './spec/load.ts';
import { conditionOf } from './status.ts';
import { assertFormerUnchanged, assertMasterUnchanged } from './verify.ts';

/**
 * The seats that may start, as runners need them. Throws `not-found` for seats that were not made, `changed` when the
 * master is not what they stand on, `corrupt` or `exists` for disks that are not theirs: always before any is started.
 */
export async function seatsToStart(lab: Lab, names: readonly string[]): Promise<readonly Seat[]> {
  assertMakeable(lab.spec);
  const by = new Map<ReturnType<typeof conditionOf>, string[]>();
  for (const name of names) {
    const condition = conditionOf(lab, name, readImageHead(seatPaths(lab.pool, name).disk));
    by.set(condition, [...(by.get(condition) ?? []), name]);
  }
  const missing = by.get('missing');
  if (missing) {
    assertPoolThere(lab);
    throw new DiskError('not-found', `Not made yet: ${describeSeats(missing)}`, {
      path: lab.pool,
      detail: { fix: "'cowherd up' makes them" },
    });
  }
  const strange = [...(by.get('foreign') ?? []), ...(by.get('damaged') ?? [])];
  if (strange.length > 0) {
    throw new DiskError('exists', `These seats' disks are not what the lab made: ${describeSeats(strange)}`, {
      path: lab.pool,
      detail: { fix: "'cowherd plan' says what is in their place" },
    });
  }
  if (by.has('ok') || by.has('stale')) await assertMasterUnchanged(lab, names);
  for (const former of lab.state?.former ?? []) assertFormerUnchanged(lab, former, by.get('former') ?? []);
  const stale = by.get('stale');
  if (stale) {
    throw new DiskError(
      'changed',
      `These seats stand on an older content of the master: ${describeSeats(stale)}`,
      {
        path: lab.spec.master.path,
        detail: {
          fix: `'cowherd reset ${stale.length === 1 ? stale[0] : 'SEATS'}' makes their disks new on what it holds now`,
        },
      },
    );
  }
  const seats = names.map((name) => lab.seats.get(name)!);
  for (const seat of seats) await assertKeyFits(seat);
  return seats;
}
