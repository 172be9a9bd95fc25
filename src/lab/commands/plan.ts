import type { CliContext } from '../../cli/context.ts';
import { count } from '../describe.ts';
import type { Lab } from '../lab.ts';
import { givenUp } from '../pool/give-up.ts';
import { locate } from '../pool/whereabouts.ts';
import { type Prepared, type PrepareOptions, prepareUp } from '../prepare.ts';
import {
  type LabCommand,
  labFrom,
  lazyProgress,
  orRemote,
  runnerOf,
  say,
  sayJson,
  shown,
  wantsJson,
} from './command.ts';
import { describePlan } from './describe-plan.ts';

/** `cowherd plan`: what `up` would do. Changes nothing. */
const onThisMachine: LabCommand = async (input, context) => {
  const { lab: recorded, file } = labFrom(input, context, 0);
  const prune = input.options.prune === true;
  const forgetGone = input.options.forgetGone === true;
  await using runner = await runnerOf(recorded);
  const { lab, ...where } = await locate(
    recorded,
    runner,
    givenUp(input.options.giveUp, recorded.spec.hosts),
  );
  // Before the first seat nothing can be wrong with the content; after it, it is read only where something touched it.
  const prepared = lab.state
    ? await prepareWithDigest(lab, { prune, forgetGone, runner, where }, context)
    : await prepareUp(lab, { prune, forgetGone, runner, where });
  const { plan, master } = prepared;
  if (wantsJson(input)) {
    sayJson(context, planJson(prepared));
    return isPossible(prepared) ? 0 : 1;
  }
  const head = `${lab.name}: ${count(lab.seats.size, 'seat')} on ${shown(context, master.path)}`;
  const lines = describePlan(plan, context);
  const work = plan.steps.some((step) => step.do !== 'remember');
  if (!work && plan.problems.length === 0) {
    say(context, `${head}: nothing to do`);
    for (const line of lines) say(context, line);
    return 0;
  }
  say(context, head);
  for (const line of lines) say(context, line);
  if (!isPossible(prepared)) return 1;
  say(context, `\n${context.program} up ${file} does this.`);
  return 0;
};

export const run = orRemote(onThisMachine, () => import('./remote/plan.ts'), 0);

/** Whether `up` would do what the plan says, not refuse it. */
export function isPossible({ plan, refused }: Prepared): boolean {
  return plan.problems.length === 0 && refused === undefined;
}

/** `prepareUp` that reads the master where its digest is not known, with a display of how far it is. */
export async function prepareWithDigest(
  lab: Lab,
  options: Omit<PrepareOptions, 'digest'>,
  context: CliContext,
): Promise<Prepared> {
  const bar = lazyProgress(context, 'reading the master', 'bytes');
  try {
    return await prepareUp(lab, { ...options, digest: { signal: context.signal, onProgress: bar.update } });
  } finally {
    bar.end();
  }
}

/** The plan for programs. */
export function planJson({ lab, plan, master, content, refused }: Prepared): unknown {
  return {
    lab: lab.name,
    pool: lab.pool,
    master: { path: master.path, format: master.format, size: master.size, content: content ?? null },
    ...plan,
    refused: refused ?? null,
    steps: plan.steps.map((step) => (step.do === 'define' ? { ...step, text: undefined } : step)),
  };
}
