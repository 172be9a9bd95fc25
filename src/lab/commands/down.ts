import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import { count, describeSeats } from '../describe.ts';
import { isDown, planDown, takeDown } from '../down.ts';
import { isSeatDiskName } from '../hold-disks.ts';
import { type Lab, openLab } from '../lab.ts';
import { assertNoOtherDomain } from '../other-domains.ts';
import { assertClosed, assertNotRunning } from '../release.ts';
import { whyKept } from '../seat-extras.ts';
import { removeEmptyPool } from '../state.ts';
import { tidy } from '../up.ts';
import {
  type LabCommand,
  labFrom,
  locked,
  orRemote,
  runnerOf,
  say,
  sayJson,
  shown,
  wantsJson,
  warn,
} from './command.ts';
import { stopSeats } from './stop.ts';

/** `cowherd down`: removes what `up` made, and gives the master back. */
const onThisMachine: LabCommand = async (input, context) => {
  const { lab } = labFrom(input, context);
  const dryRun = input.options.dryRun === true;
  await using runner = await runnerOf(lab);
  const seats = [...lab.seats.values(), ...lab.unlisted.values()];
  if (await isDown(lab)) {
    if (!dryRun) await tidyAway(lab);
    if (wantsJson(input))
      sayJson(context, { lab: lab.name, seats: [], files: [], freed: 0, kept: [], dryRun });
    else say(context, `${lab.name}: there is nothing to take down`);
    return 0;
  }
  const work = async () => {
    if (input.options.stop === true && !dryRun)
      await stopSeats(seats, runner, { gracefulMs: 0, signal: context.signal });
    await assertNotRunning(seats, runner, 'down');
    const again = openLab(lab.spec.file, context.cwd);
    const plan = await planDown(again);
    const disks = plan.files.filter(isSeatDiskName);
    await assertNoOtherDomain(disks, again, runner);
    await assertClosed(disks);
    return { plan, restored: dryRun ? [] : await takeDown(again, plan, runner) };
  };
  const { plan, restored } = dryRun ? await work() : await locked(lab, work);
  if (!dryRun) removeEmptyPool(lab.pool);
  if (wantsJson(input)) {
    sayJson(context, { lab: lab.name, ...plan, restored, dryRun });
    return 0;
  }
  const verb = dryRun ? 'Would remove' : 'Removed';
  say(
    context,
    `${verb} ${count(plan.seats.length, 'seat')}, ${count(plan.files.length, 'file')}, ${humanSize(plan.freed)}: ${describeSeats(plan.seats)}`,
  );
  for (const path of restored) say(context, `${shown(context, path)} is as writable as before`);
  for (const path of plan.kept) warn(context, `'${shown(context, path)}' ${whyKept(path, lab.name)}`);
  return 0;
};

export const run = orRemote(onThisMachine, () => import('./remote/down.ts'));

/** What is left when the last moments of a `down` were cut off: a lock, and folders with nothing in them. */
async function tidyAway(lab: Lab): Promise<void> {
  if (!existsSync(dirname(lab.lockPath))) return;
  await tidy(lab);
  removeEmptyPool(lab.pool);
}
