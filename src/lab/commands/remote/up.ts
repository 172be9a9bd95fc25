import { resolve } from 'node:path';
import type { CliContext } from '../../../cli/context.ts';
import { count, describeSeats, milliseconds } from '../../describe.ts';
import { fixOf, withoutControls } from '../../messages.ts';
import { type GivenUp, givenUp } from '../../pool/give-up.ts';
import { describeOnHosts, made } from '../../remote/dry-run.ts';
import type { RemoteLab } from '../../remote/lab.ts';
import { writeOwnRecord } from '../../remote/own-record.ts';
import { applyRemote, isIdle, planRemote, type RemoteApplied, type RemotePlan } from '../../remote/up.ts';
import {
  checkStartToo,
  type LabCommand,
  lazyProgress,
  say,
  sayJson,
  startToo,
  wantsJson,
  warn,
} from '../command.ts';
import { describeProblems } from '../describe-plan.ts';
import { lockedRemote, remoteLabFrom, warnOfDown } from './lab.ts';

/** `cowherd up` and `cowherd plan` for a lab whose hosts keep its seats. Exit code 1 where something failed on a host that answers. */
const command =
  (dryRun: boolean): LabCommand =>
  async (input, context) => {
    const { lab: remote, file } = remoteLabFrom(input, context, 0);
    await checkStartToo(input);
    await using lab = remote;
    const began = performance.now();
    const prune = input.options.prune === true;
    const giveUp = givenUp(input.options.giveUp, lab.spec.hosts);
    const only = dryRun || input.options.dryRun === true;
    if (only) {
      const plan = await planned(lab, context, { make: false, giveUp });
      describe(plan, input.options.output === 'json', lab, prune, context, true);
      return plan.problems.length > 0 ? 1 : 0;
    }
    const { plan, applied } = await lockedRemote(lab, async () => {
      const plan = await planned(lab, context, { make: true, giveUp });
      const none = { created: [], completed: [], grown: [], defined: [], removed: [], copied: [] };
      const nothing: RemoteApplied = { ...none, failures: [] };
      if (isIdle(plan, prune)) {
        // Another machine may have been at work meanwhile.
        if (plan.view.placement) writeOwnRecord(lab.spec, plan.view.placement);
        return { plan, applied: nothing };
      }
      const onHost = (host: string, what: string) => !wantsJson(input) && say(context, `  ${host}: ${what}`);
      return { plan, applied: await applyRemote(lab, plan, { prune, signal: context.signal, onHost }) };
    });
    for (const { host, error } of applied.failures) {
      const fix = fixOf(error);
      warn(context, withoutControls(`${host}: ${error.message}${fix === undefined ? '' : ` (${fix})`}`));
    }
    const { failures, ...done } = applied;
    const ms = performance.now() - began;
    const answer = {
      lab: lab.spec.name,
      ...done,
      failed: failures.map(({ host }) => host),
      milliseconds: Math.round(ms),
    };
    const json = wantsJson(input);
    if (!json) {
      describe(plan, false, lab, prune, context);
      if (!isIdle(plan, prune))
        say(
          context,
          `${count(done.created.length, 'disk')} made, ${count(done.defined.length, 'domain')} defined in ${milliseconds(ms)}`,
        );
    }
    if (failures.length === 0 && input.options.start === true)
      return startToo(input, context, [resolve(context.cwd, file)], answer);
    if (json) sayJson(context, answer);
    return failures.length > 0 ? 1 : 0;
  };

export const run = command(false);
export const plan = command(true);

async function planned(
  lab: RemoteLab,
  context: CliContext,
  options: { readonly make: boolean; readonly giveUp: GivenUp },
): Promise<RemotePlan> {
  const bar = lazyProgress(context, 'reading the master', 'bytes');
  try {
    const digest = { signal: context.signal, onProgress: bar.update };
    const plan = await planRemote(lab, { ...options, digest });
    warnOfDown(plan.view, context);
    return plan;
  } finally {
    bar.end();
  }
}

function describe(
  plan: RemotePlan,
  json: boolean,
  lab: RemoteLab,
  prune: boolean,
  context: CliContext,
  dryRun = false,
): void {
  const { spec } = lab;
  const makes = dryRun ? plan.hosts.map((one) => made(lab, plan.view, one)) : [];
  if (json) {
    const { problems, view } = plan;
    const hosts = plan.hosts.map((one, i) => ({
      ...one,
      files: makes[i]?.files,
      domains: makes[i]?.domains,
    }));
    sayJson(context, { lab: spec.name, hosts, problems, content: view.master?.content });
    return;
  }
  const head = `${spec.name}: ${count(spec.seats.length, 'seat')} on ${count(plan.hosts.length, 'host')}`;
  say(context, isIdle(plan, prune) ? `${head}: nothing to do` : head);
  for (const line of describeProblems(plan.problems, context)) say(context, line);
  for (const { host, down, copy, create, extras, grow, define, unlisted, surplus, notes } of plan.hosts) {
    if (down !== undefined) continue;
    if (copy) say(context, `  + ${host}: a copy of the master`);
    if (create.length > 0)
      say(context, `  + ${host}: ${count(create.length, 'disk')}  ${describeSeats(create)}`);
    if (extras.length > 0) say(context, `  + ${host}: other disks or a seed  ${describeSeats(extras)}`);
    if (grow.length > 0)
      say(context, `  ~ ${host}: ${count(grow.length, 'disk')} to grow  ${describeSeats(grow)}`);
    if (define.length > 0)
      say(context, `  + ${host}: ${count(define.length, 'domain')}  ${describeSeats(define)}`);
    if (surplus.length > 0)
      say(context, `  - ${host}: ${describeSeats(surplus)}, which another host has, with its disk`);
    for (const note of notes) say(context, `    ${note}`);
    if (unlisted.length === 0) continue;
    say(
      context,
      prune
        ? `  - ${host}: ${describeSeats(unlisted)}`
        : `    ${host}: kept, not listed: ${describeSeats(unlisted)}`,
    );
  }
  for (const line of describeOnHosts(makes)) say(context, line);
}
