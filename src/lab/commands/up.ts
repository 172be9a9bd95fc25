import { resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { humanSize } from '../../cli/sizes.ts';
import { factsIfAny } from '../../platform/file-facts.ts';
import { count, milliseconds } from '../describe.ts';
import { type Lab, openLab } from '../lab.ts';
import { noteMasterFolders } from '../masters/master-folders.ts';
import { givenUp } from '../pool/give-up.ts';
import { forgetApart, locate } from '../pool/whereabouts.ts';
import { assertNotMoving } from '../pool-move/journal.ts';
import type { Prepared } from '../prepare.ts';
import { readState } from '../state.ts';
import { type Applied, type ApplyOptions, applyUp, tidy } from '../up.ts';
import { rememberChange } from '../verify.ts';
import {
  checkStartToo,
  type LabCommand,
  labFrom,
  lazyProgress,
  locked,
  orRemote,
  runnerOf,
  say,
  sayJson,
  seatsFrom,
  shown,
  startToo,
  wantsJson,
  warn,
} from './command.ts';
import { describePlan, isEmpty } from './describe-plan.ts';
import { isPossible, planJson, prepareWithDigest } from './plan.ts';

/** `cowherd up`: makes what the lab file asks for and is not there. */
const onThisMachine: LabCommand = async (input, context) => {
  const { lab, file } = labFrom(input, context, 0);
  await checkStartToo(input);
  const began = performance.now();
  const prune = input.options.prune === true;
  const overwrite = new Set(
    typeof input.options.overwrite === 'string' ? seatsFrom(lab, input.options.overwrite.split(',')) : [],
  );
  const forgetGone = input.options.forgetGone === true;
  const giveUp = givenUp(input.options.giveUp, lab.spec.hosts);
  await using runner = await runnerOf(lab);
  const prepare = async (now: Lab) => {
    const { lab, ...where } = await locate(now, runner, giveUp);
    return await prepareWithDigest(lab, { prune, overwrite, forgetGone, runner, where }, context);
  };
  let prepared = await prepare(lab);
  if (input.options.dryRun === true) {
    if (wantsJson(input)) sayJson(context, planJson(prepared));
    else {
      for (const line of describePlan(prepared.plan, context)) say(context, line);
      say(context, 'Nothing was changed (--dry-run).');
    }
    return isPossible(prepared) ? 0 : 1;
  }
  let applied: Applied = { created: [], defined: 0, removed: [], warnings: [] };
  const idle = isEmpty(prepared.plan);
  if (idle) {
    if (lab.state) noteMasterFolders(lab.spec, lab.pool, lab.state);
    await rememberChange(lab);
    await tidy(lab);
  } else {
    const first = prepared;
    ({ prepared, applied } = await locked(
      lab,
      async () => {
        // Looked at again under the lock: another command may have been at work until now. Nobody was where the lab still has no state.
        assertNotMoving(lab.pool);
        const isFirst = lab.state === undefined && readState(lab.pool, lab.name) === undefined;
        const now = isFirst ? first : await prepare(openLab(lab.spec.file, context.cwd));
        return { prepared: now, applied: await apply(now, { runner, forgetGone }, context) };
      },
      { forgetGone },
    ));
  }
  // What was not given up was a problem.
  if (giveUp.hosts.size > 0) forgetApart(lab);
  for (const warning of [...applied.warnings, ...(runner.warnings?.() ?? [])]) warn(context, warning);
  const answer = answerOf(prepared, applied, performance.now() - began);
  const json = wantsJson(input);
  if (!json) report(prepared, answer, idle, context);
  if (input.options.start === true) return startToo(input, context, [resolve(context.cwd, file)], answer);
  if (!json && lab.spec.serve) {
    say(context, `guests elsewhere reach these disks while 'cowherd serve ${file}' runs`);
  }
  if (json) sayJson(context, answer);
  return 0;
};

export const run = orRemote(onThisMachine, () => import('./remote/up.ts'), 0);

async function apply(
  prepared: Prepared,
  options: Pick<ApplyOptions, 'runner' | 'forgetGone'>,
  context: CliContext,
): Promise<Applied> {
  const bar = lazyProgress(context, 'making disks', 'disks');
  try {
    return await applyUp(prepared, { ...options, signal: context.signal, onProgress: bar.update });
  } finally {
    bar.end();
  }
}

/** What `up` did and what there is now, for programs. */
function answerOf({ lab, plan, master, hold, content }: Prepared, applied: Applied, ms: number) {
  const facts = hold.disks.map(factsIfAny);
  return {
    lab: lab.name,
    pool: lab.pool,
    master: { path: master.path, format: master.format, size: master.size, content },
    seats: lab.seats.size,
    created: applied.created,
    defined: applied.defined,
    removed: applied.removed,
    unlisted: plan.unlisted,
    stale: plan.stale,
    notes: plan.notes,
    apparent: facts.reduce((sum, disk) => sum + (disk?.size ?? 0), 0),
    allocated: facts.reduce((sum, disk) => sum + (disk?.allocated ?? 0), 0),
    milliseconds: Math.round(ms),
  };
}

function report(
  { lab, plan, master }: Prepared,
  answer: ReturnType<typeof answerOf>,
  idle: boolean,
  context: CliContext,
): void {
  const head = `${lab.name}: ${count(lab.seats.size, 'seat')} on ${shown(context, master.path)}`;
  say(context, idle ? `${head}: nothing to do` : head);
  for (const line of describePlan(plan, context)) say(context, line);
  if (idle) return;
  const { created, apparent, allocated } = answer;
  const made = created.length > 0 ? `${count(created.length, 'disk')} made` : 'done';
  const sizes = `${humanSize(apparent)} by ls -l, ${humanSize(allocated)} by du`;
  say(context, `${made} in ${milliseconds(answer.milliseconds)}; all disks: ${sizes}`);
}
