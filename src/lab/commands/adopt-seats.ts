import { basename, extname, resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { DiskError } from '../../errors.ts';
import { count, table } from '../describe.ts';
import { openLab } from '../lab.ts';
import { type Adoption, adoptSeats, planAdoption } from '../seats/adopt-seats.ts';
import { type LabCommand, locked, runnerOf, say, sayJson, shown, wantsJson, warn } from './command.ts';
import { prepareWithDigest } from './plan.ts';

/** `cowherd adopt LAB DISK…`: makes clones that others made seats of a lab. */
export const adoptAsSeats: LabCommand = async (input, context) => {
  const [file, ...disks] = input.operands;
  if (disks.length === 0) {
    throw new DiskError('bad-argument', 'Which clones?', {
      detail: { fix: `write for example: ${context.program} adopt ${file} student-01=clone.qcow2` },
    });
  }
  const wanted = disks.map((one) => seatAndFile(one, context));
  const lab = openLab(file, context.cwd);
  const dryRun = input.options.dryRun === true;
  await using runner = await runnerOf(lab);
  const whole = async (look: boolean): Promise<readonly Adoption[]> => {
    const now = openLab(file, context.cwd);
    const prepared = await prepareWithDigest(now, { runner }, context);
    const jobs = await planAdoption(prepared, wanted, context.signal);
    if (look) return jobs;
    for (const warning of await adoptSeats(prepared, jobs, { runner, signal: context.signal }))
      warn(context, warning);
    return jobs;
  };
  let jobs = await whole(true);
  // Looked at again under the lock: another command may have been at work until now.
  if (!dryRun) jobs = await locked(lab, () => whole(false));
  for (const warning of runner.warnings?.() ?? []) warn(context, warning);
  if (wantsJson(input)) {
    sayJson(context, {
      lab: lab.name,
      adopted: jobs.map(({ seat, from, to }) => ({ seat, from, path: to })),
      dryRun,
    });
    return 0;
  }
  say(context, table(jobs.map(({ seat, from }) => [seat, `was ${shown(context, from)}`])));
  say(context, `${count(jobs.length, 'seat')} ${dryRun ? 'would be adopted' : 'adopted'} by ${lab.name}`);
  return 0;
};

/** `SEAT=FILE`, or a file that is called as its seat. A file whose own name has an equals sign is written `./a=b.qcow2`. */
function seatAndFile(operand: string, context: CliContext): { seat: string; file: string } {
  const named = /^([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)$/.exec(operand);
  const path = named ? named[2] : operand;
  return { seat: named ? named[1] : basename(path, extname(path)), file: resolve(context.cwd, path) };
}
