import { existsSync } from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { DiskError } from '../../errors.ts';
import { readSmallText } from '../../platform/json-file.ts';
import { describeSeats } from '../describe.ts';
import { labOf, realPath } from '../lab.ts';
import { findVersion } from '../masters/library.ts';
import { inspectMaster, pathFrom } from '../masters/master.ts';
import { nothingGivenUp } from '../pool/give-up.ts';
import { locate } from '../pool/whereabouts.ts';
import { overcommitError } from '../space/forecast.ts';
import { editLabFile, withValue } from '../spec/edit.ts';
import { type LabSpec, parseLab } from '../spec/load.ts';
import {
  isRemote,
  type LabCommand,
  labFrom,
  runnerOf,
  say,
  sayJson,
  shown,
  specFrom,
  wantsJson,
} from './command.ts';
import { describePlan } from './describe-plan.ts';
import { isPossible, planJson, prepareWithDigest } from './plan.ts';
import { run as up } from './up.ts';

/**
 * `cowherd roll`: the lab file names another master, and `up` takes it; seats change over at their next reset. The lab file
 * changes in one instant, so that a run that is cut off has rolled or not, and `up` completes it.
 */
const onThisMachine: LabCommand = async (input, context) => {
  const { lab, file, rest } = labFrom(input, context, 1);
  const { spec } = lab;
  const { target, change, next: nextSpec } = await otherMaster(spec, { file, wanted: rest }, context);
  const recorded = labOf(nextSpec);
  await using runner = await runnerOf(recorded);
  const { lab: next, ...where } = await locate(recorded, runner, nothingGivenUp);
  const prepared = await prepareWithDigest(next, { runner, where }, context);
  if (input.options.dryRun === true) {
    if (wantsJson(input)) sayJson(context, planJson(prepared));
    else {
      say(context, `${lab.name}: would roll to ${shown(context, target)}`);
      for (const line of describePlan(prepared.plan, context)) say(context, line);
      say(context, 'Nothing was changed (--dry-run).');
    }
    return isPossible(prepared) ? 0 : 1;
  }
  const [problem] = prepared.plan.problems;
  if (problem) {
    throw new DiskError('exists', `${problem.seat ?? lab.name}: ${problem.what}: '${problem.path}'`, {
      path: problem.path,
      detail: { fix: problem.fix },
    });
  }
  if (prepared.refused !== undefined) throw overcommitError(next, prepared.refused);
  editLabFile(spec.file, change);
  const code = await up({ operands: [file], options: { output: input.options.output } }, context);
  if (code === 0 && !wantsJson(input) && prepared.plan.former.length > 0) {
    say(context, `Seats change over at their next reset: ${describeSeats(prepared.plan.former)}`);
  }
  return code;
};

export const run: LabCommand = async (input, context) => {
  if (!isRemote(specFrom(input, context, 1).spec)) return await onThisMachine(input, context);
  return await (await import('./remote/roll.ts')).run(input, context);
};

/** What the lab file is to say so that it names the one master that is wanted. Throws `bad-argument`, `not-found`. */
export async function otherMaster(
  spec: LabSpec,
  { file, wanted }: { readonly file: string; readonly wanted: readonly string[] },
  context: CliContext,
): Promise<{
  readonly target: string;
  readonly change: (text: string) => string;
  readonly next: LabSpec;
}> {
  if (wanted.length !== 1) {
    throw new DiskError('bad-argument', 'Which master shall the lab roll to?', {
      detail: { fix: `write for example: ${context.program} roll ${file} debian-12@4` },
    });
  }
  const target = masterMeant(wanted[0], spec, context.cwd);
  const { format } = await inspectMaster(target);
  const withFormat = spec.master.format !== undefined;
  const name = isAbsolute(wanted[0]) ? target : pathFrom(realPath(dirname(spec.file)), target);
  const path = withFormat ? ['master', 'path'] : ['master'];
  const change = (text: string) => {
    const moved = withValue(text, path, name);
    return withFormat ? withValue(moved, ['master', 'format'], format) : moved;
  };
  const text = readSmallText(spec.file, 4 * 1024 * 1024) ?? '';
  return { target, change, next: parseLab(change(text), { name: file, file: spec.file }) };
}

/** A path, or the name of a version beside the lab's master (`debian-12@4`; `debian-12` is the newest). */
function masterMeant(text: string, spec: LabSpec, cwd: string): string {
  const path = resolve(cwd, text);
  if (existsSync(path)) return realPath(path);
  if (text.includes('/')) {
    const found = findVersion(realPath(dirname(path)), text.slice(text.lastIndexOf('/') + 1));
    return found.path;
  }
  return findVersion(dirname(realPath(spec.master.path)), text).path;
}
