import { humanSize } from '../../cli/sizes.ts';
import type { Lab } from '../lab.ts';
import type { Runner } from '../runner/runner.ts';
import { flattenSeat, snapshotsDropped } from '../seats/flatten-seat.ts';
import { openSeatDisk, type SeatDiskFile, seatDiskFile } from '../seats/seat-disk.ts';
import { isLocked } from '../standing/release.ts';
import { removeLeftovers } from '../up.ts';
import { type LabCommand, lazyProgress, say, sayJson, wantsJson } from './command.ts';
import { oneSeatFrom, whileOff } from './one-seat.ts';

/** `cowherd flatten`: makes a seat's disk independent of the master. */
export const run: LabCommand = async (input, context) => {
  const one = oneSeatFrom(input, context, 0, 'flatten classroom.yaml student-03');
  const { seat } = one;
  const bar = lazyProgress(context, 'copying', 'bytes');
  try {
    const dropSnapshots = input.options.dropSnapshots === true;
    const check = async (lab: Lab) => {
      const disk = await seatDiskFile(lab, seat);
      return { ...disk, snapshots: disk.master ? await snapshotsOf(disk, dropSnapshots) : [] };
    };
    const work = async (lab: Lab, runner: Runner, { master, head, snapshots }: Flattened) => {
      const dryRun = input.options.dryRun === true;
      let { allocated } = head;
      if (!dryRun && master) {
        removeLeftovers(lab.pool);
        const { signal } = context;
        allocated = await flattenSeat(lab, seat, { runner, dropSnapshots, signal, onProgress: bar.update });
      }
      bar.end();
      if (wantsJson(input))
        sayJson(context, {
          lab: lab.name,
          seat,
          was: head.allocated,
          allocated,
          flat: !dryRun || !master,
          snapshotsDropped: snapshots,
          dryRun,
        });
      else if (!master) say(context, `${seat} stands on nothing already`);
      else if (dryRun)
        say(context, `${seat} would be made independent of the master; it takes ${humanSize(allocated)} now`);
      else say(context, `${seat} is independent of the master now, ${humanSize(allocated)} by du`);
      if (snapshots.length > 0 && !wantsJson(input))
        say(context, `Snapshots that ${dryRun ? 'would be' : 'were'} given up: ${snapshots.join(', ')}`);
      return 0;
    };
    return await whileOff(one, 'flatten', input, context, { check, work });
  } finally {
    bar.end();
  }
};

type Flattened = SeatDiskFile & { readonly snapshots: readonly string[] };

async function snapshotsOf(disk: SeatDiskFile, drop: boolean): Promise<readonly string[]> {
  await using image = await openSeatDisk(disk, { running: await isLocked(disk.path) });
  return await snapshotsDropped(disk, image, drop);
}
