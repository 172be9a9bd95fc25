import type { CliContext } from '../../cli/context.ts';
import { humanSize } from '../../cli/sizes.ts';
import { count, milliseconds } from '../describe.ts';
import { type Lab, openLab } from '../lab.ts';
import { readImageHead } from '../overlay.ts';
import { type Applied, applyUp, type Prepared, prepareUp } from '../up.ts';
import {
  type LabCommand,
  labFrom,
  lazyProgress,
  locked,
  say,
  sayJson,
  shown,
  wantsJson,
  warn,
} from './command.ts';
import { describePlan, isEmpty } from './describe-plan.ts';

/** `cowherd up`: makes what the lab file asks for and is not there. */
export const run: LabCommand = async (input, context) => {
  const { lab, file } = labFrom(input, context);
  const began = performance.now();
  const prune = input.options.prune === true;
  let prepared = await prepareWithDigest(lab, prune, context);
  if (input.options.dryRun === true) {
    for (const line of describePlan(prepared.plan, context)) say(context, line);
    say(context, 'Nothing was changed (--dry-run).');
    return prepared.plan.problems.length > 0 ? 1 : 0;
  }
  let applied: Applied = { created: [], defined: 0, removed: [], warnings: [] };
  const idle = isEmpty(prepared.plan);
  if (!idle) {
    // Looked at again under the lock: another command may have been at work until now.
    ({ prepared, applied } = await locked(lab, async () => {
      const again = await prepareWithDigest(openLab(lab.spec.file, context.cwd), prune, context);
      return { prepared: again, applied: await apply(again, context) };
    }));
  }
  report(prepared, applied, idle, performance.now() - began, { json: wantsJson(input), context, file });
  if (input.options.start !== true) return 0;
  const { run: start } = await import('./start.ts');
  return start({ operands: [file], options: input.options }, context);
};

async function prepareWithDigest(lab: Lab, prune: boolean, context: CliContext): Promise<Prepared> {
  const bar = lazyProgress(context, 'reading the master', 'bytes');
  try {
    return await prepareUp(lab, { prune, digest: { signal: context.signal, onProgress: bar.update } });
  } finally {
    bar.end();
  }
}

async function apply(prepared: Prepared, context: CliContext): Promise<Applied> {
  const bar = lazyProgress(context, 'making disks', 'disks');
  try {
    return await applyUp(prepared, { signal: context.signal, onProgress: bar.update });
  } finally {
    bar.end();
  }
}

function report(
  prepared: Prepared,
  applied: Applied,
  idle: boolean,
  ms: number,
  to: { json: boolean; context: CliContext; file: string },
): void {
  const { lab, plan, master, hold } = prepared;
  const { context } = to;
  for (const warning of applied.warnings) warn(context, warning);
  const heads = hold.disks.map(readImageHead);
  const apparent = heads.reduce((sum, head) => sum + (head?.apparent ?? 0), 0);
  const allocated = heads.reduce((sum, head) => sum + (head?.allocated ?? 0), 0);
  if (to.json) {
    sayJson(context, {
      lab: lab.name,
      pool: lab.pool,
      master: { path: master.path, format: master.format, size: master.size, content: prepared.content },
      seats: lab.seats.size,
      created: applied.created,
      defined: applied.defined,
      removed: applied.removed,
      unlisted: plan.unlisted,
      stale: plan.stale,
      apparent,
      allocated,
      milliseconds: Math.round(ms),
    });
    return;
  }
  const head = `${lab.name}: ${count(lab.seats.size, 'seat')} on ${shown(context, master.path)}`;
  const lines = describePlan(plan, context);
  if (idle) {
    say(context, `${head}: nothing to do`);
    for (const line of lines) say(context, line);
    return;
  }
  say(context, head);
  for (const line of lines) say(context, line);
  const made = applied.created.length > 0 ? `${count(applied.created.length, 'disk')} made` : 'done';
  say(
    context,
    `${made} in ${milliseconds(ms)}; all disks: ${humanSize(apparent)} by ls -l, ${humanSize(allocated)} by du`,
  );
}
