import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import { count, describeSeats } from '../describe.ts';
import { isSeatDiskName } from '../disks/hold-disks.ts';
import { assertNoOtherDomain } from '../domain/other-domains.ts';
import { isDown, planDown, takeDown } from '../down.ts';
import { type Lab, openLab, withoutOriginal } from '../lab.ts';
import { forgetMasterFolders } from '../masters/master-folders.ts';
import { givenUp } from '../pool/give-up.ts';
import { assertPoolThere, lostPoolOf, unlistedLost } from '../pool/lost-pool.ts';
import { holdsOfOriginal, originalNote } from '../pool/original.ts';
import { assertNoneApart, assertOneHost, forgetApart, withoutHosts } from '../pool/whereabouts.ts';
import { savedAmong, savedGoes } from '../seats/saved-memory.ts';
import type { Seat } from '../seats/seat.ts';
import { whyKept } from '../seats/seat-extras.ts';
import { disksOf } from '../seats/seat-key.ts';
import { assertClosed, assertNotRunning, assertOwnDisks } from '../standing/release.ts';
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
import { stopFirst } from './stop-first.ts';

/** `cowherd down`: removes what `up` made, and gives the master back. */
const onThisMachine: LabCommand = async (input, context) => {
  const giveUp = givenUp(input.options.giveUp, labFrom(input, context, 0).lab.spec.hosts, 'hosts');
  const forgetGone = input.options.forgetGone === true;
  const known = (one: Lab) => (forgetGone ? withoutOriginal(one) : one);
  const lab = known(withoutHosts(labFrom(input, context, 0).lab, giveUp));
  await assertNoneApart(lab, giveUp);
  const dryRun = input.options.dryRun === true;
  await using runner = await runnerOf(lab);
  const gone = forgetGone ? lostPoolOf(lab) : undefined;
  const lost = gone ? await unlistedLost(lab, gone, runner) : [];
  const seats = [...lab.seats.values(), ...lab.unlisted.values(), ...lost];
  if (await isDown(lab, forgetGone)) {
    if (!forgetGone) assertPoolThere(lab);
    if (!dryRun) await tidyAway(lab);
    if (!dryRun && giveUp.hosts.size > 0) forgetApart(lab);
    if (wantsJson(input))
      sayJson(context, { lab: lab.name, seats: [], files: [], freed: 0, kept: [], dryRun });
    else say(context, `${lab.name}: there is nothing to take down`);
    return 0;
  }
  const planned = async () => {
    const again = known(withoutHosts(openLab(lab.spec.file, context.cwd), giveUp));
    const plan = await planDown(again, forgetGone);
    await assertNoOtherDomain(plan.files.filter(isSeatDiskName), again, runner);
    return { again, plan };
  };
  const work = async () => {
    const check = async (off: readonly Seat[]) => {
      await assertNotRunning(off, runner, 'down', { throwsAway: true });
      await assertOneHost(seats, runner, 'down');
      await assertOwnDisks(seats, runner);
      await planned();
    };
    const stopped = await stopFirst(seats, { runner, gracefulMs: 0, verb: 'down', check }, input, context);
    const up = new Set(dryRun ? stopped : []);
    const off = seats.filter(({ name }) => !up.has(name));
    await assertNotRunning(off, runner, 'down', { throwsAway: true });
    const saved = await savedAmong(off, runner);
    const { again, plan } = await planned();
    const running = new Set(
      seats
        .filter(({ name }) => up.has(name))
        .flatMap(disksOf)
        .map(({ path }) => path),
    );
    await assertClosed(plan.files.filter((path) => isSeatDiskName(path) && !running.has(path)));
    const held = holdsOfOriginal(again);
    const original = forgetGone ? held : [];
    for (const { path } of held.slice(original.length))
      warn(context, originalNote(shown(context, path), 'down'));
    const restored = dryRun ? [] : await takeDown(again, plan, { runner, lost, original });
    return { plan: input.options.stop === true ? { ...plan, stopped } : plan, saved, restored };
  };
  const { plan, saved, restored } = dryRun ? await work() : await locked(lab, work, { forgetGone });
  if (!dryRun) {
    removeEmptyPool(lab.pool);
    forgetMasterFolders(lab.spec, lab.pool);
  }
  if (!dryRun && giveUp.hosts.size > 0) forgetApart(lab);
  if (wantsJson(input)) {
    sayJson(context, { lab: lab.name, ...plan, saved, restored, dryRun });
    return 0;
  }
  const verb = dryRun ? 'Would remove' : 'Removed';
  if (plan.forgotten.length === 0 || plan.files.length > 0)
    say(
      context,
      `${verb} ${count(plan.seats.length, 'seat')}, ${count(plan.files.length, 'file')}, ${humanSize(plan.freed)}: ${describeSeats(plan.seats)}`,
    );
  if (plan.forgotten.length > 0) {
    const forgot = dryRun ? 'Would forget' : 'Forgot';
    say(
      context,
      `${forgot} ${count(plan.forgotten.length, 'seat')} that ${plan.forgotten.length === 1 ? 'was' : 'were'} not there: ${describeSeats(plan.forgotten)}`,
    );
  }
  if (saved.length > 0) say(context, savedGoes(saved, dryRun));
  for (const path of restored) say(context, `${shown(context, path)} is as writable as before`);
  for (const path of plan.kept) warn(context, `'${shown(context, path)}' ${whyKept(path, lab.name)}`);
  return 0;
};

export const run = orRemote(onThisMachine, () => import('./remote/down.ts'), 0);

/** What is left when the last moments of a `down` were cut off: a lock, and folders with nothing in them. */
async function tidyAway(lab: Lab): Promise<void> {
  // Nothing was taken down: the pool may be away like a master's folder, and its seats are missed when only that is back.
  forgetMasterFolders(lab.spec);
  if (!existsSync(dirname(lab.lockPath))) return;
  await tidy(lab);
  removeEmptyPool(lab.pool);
}
