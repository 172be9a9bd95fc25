import { resolve } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import type { Lab } from '../lab.ts';
import type { Runner } from '../runner/runner.ts';
import { savedAmong, savedGoes } from '../seats/saved-memory.ts';
import { planRestore, type RestorePlan, restoreSeat } from '../seats/saved-work.ts';
import { removeLeftovers } from '../up.ts';
import { warnOfBeside } from './beside.ts';
import { type LabCommand, say, sayJson, shown, wantsJson } from './command.ts';
import { oneSeatFrom, whileOff } from './one-seat.ts';

/** `cowherd restore`: puts saved work in the place of a seat's disk. */
export const run: LabCommand = async (input, context) => {
  const one = oneSeatFrom(input, context, 1, 'restore classroom.yaml student-03 student-03.work.qcow2');
  const { seat } = one;
  const file = resolve(context.cwd, one.rest[0]);
  const check = (lab: Lab, runner: Runner) =>
    planRestore(lab, seat, file, { runner, signal: context.signal });
  const work = async (lab: Lab, runner: Runner, plan: RestorePlan) => {
    const dryRun = input.options.dryRun === true;
    const saved = await savedAmong([lab.seats.get(seat)!], runner);
    await warnOfBeside([lab.seats.get(seat)!], runner, { dryRun }, context);
    if (!dryRun) {
      removeLeftovers(lab.pool);
      await restoreSeat(lab, plan, { runner, signal: context.signal });
    }
    const { freed } = plan;
    if (wantsJson(input)) sayJson(context, { lab: lab.name, seat, file, freed, saved, dryRun });
    else if (dryRun)
      say(context, `Would throw away the disk of ${seat} (${humanSize(freed)}) for ${shown(context, file)}`);
    else say(context, `${seat} is what ${shown(context, file)} was saved from`);
    if (saved.length > 0 && !wantsJson(input)) say(context, savedGoes(saved, dryRun));
    return 0;
  };
  return whileOff(one, 'restore', input, context, { check, work });
};
