import { resolve } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import { DiskError } from '../../errors.ts';
import { type ImageHead, nameExists } from '../disks/overlay.ts';
import { assertSound } from '../disks/sound-image.ts';
import type { Lab } from '../lab.ts';
import type { Runner } from '../runner/runner.ts';
import { assertReplaceable, saveSeat } from '../seats/saved-work.ts';
import { seatDiskFile } from '../seats/seat-disk.ts';
import { assertNoLabsOwn } from '../seats/seat-names.ts';
import { assertFooting } from '../standing/footing.ts';
import { type LabCommand, say, sayJson, shown, wantsJson, warn } from './command.ts';
import { oneSeatFrom, whileOff } from './one-seat.ts';

/** `cowherd save`: copies a seat's work, its overlay alone, to a file. */
export const run: LabCommand = async (input, context) => {
  const one = oneSeatFrom(input, context, 1, 'save classroom.yaml student-03 student-03.work.qcow2');
  const { seat } = one;
  const file = resolve(context.cwd, one.rest[0]);
  const force = input.options.force === true;
  const check = async (lab: Lab) => {
    assertNoLabsOwn(file);
    if (nameExists(file) && !force) {
      throw new DiskError('exists', `There is a file '${one.rest[0]}' already`, {
        path: file,
        detail: { fix: '--force replaces it' },
      });
    }
    const { head, master } = await seatDiskFile(lab, seat);
    await assertReplaceable(lab, file);
    if (master) await assertFooting(lab, head, master, context.signal);
    return head;
  };
  const work = async (lab: Lab, _: Runner, head: ImageHead, isUp: boolean) => {
    if (input.options.dryRun === true) {
      if (!isUp) await assertSound(head.path, { withoutKey: true });
      if (wantsJson(input))
        sayJson(context, { lab: lab.name, seat, file, allocated: head.allocated, dryRun: true });
      else say(context, `Would save ${seat} (${humanSize(head.allocated)}) to ${shown(context, file)}`);
      return 0;
    }
    const { warnings, ...saved } = await saveSeat(lab, seat, file, { force, signal: context.signal });
    for (const warning of warnings) warn(context, warning);
    if (lab.spec.disks.length > 0) warn(context, 'the extra disks of the seat are not in it');
    if (wantsJson(input)) sayJson(context, { lab: lab.name, seat, ...saved, dryRun: false });
    else say(context, `${seat} saved to ${shown(context, file)}, ${humanSize(saved.allocated)} by du`);
    return 0;
  };
  // A disk that fails is often read-only by then, and the work on it is to be saved all the more.
  return whileOff(one, 'save', input, context, { check, work }, { onlyReads: true });
};
