import { existsSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import { DiskError } from '../../errors.ts';
import { count, table } from '../describe.ts';
import { openLab } from '../lab.ts';
import { collect, planCollection } from '../masters/collect.ts';
import { loadLab } from '../spec/load.ts';
import { defaultLabFile, isRemote, type LabCommand, say, sayJson, shown, wantsJson } from './command.ts';

/** `cowherd gc`: says what nobody needs any more, and removes it with --yes. */
const onThisMachine: LabCommand = async (input, context) => {
  const [first = defaultLabFile, ...rest] = input.operands;
  const path = resolve(context.cwd, first);
  if (!existsSync(path)) {
    throw new DiskError('not-found', `There is no '${first}'`, {
      path,
      detail: { fix: `name a folder of masters, or a lab file: ${context.program} gc masters` },
    });
  }
  const lab = statSync(path).isDirectory() ? undefined : openLab(first, context.cwd);
  const folder = lab ? dirname(lab.spec.master.path) : path;
  const places = [
    context.cwd,
    ...(lab ? [lab.pool, dirname(lab.spec.file)] : []),
    ...rest.map((one) => resolve(context.cwd, one)),
  ];
  const forgetGone = input.options.forgetGone === true;
  const options = { keep: keepOf(input.options.keep), places, forgetGone };
  const yes = input.options.yes === true && input.options.dryRun !== true;
  const collection = yes ? await collect(folder, options) : await planCollection(folder, options);
  const { garbage, kept, looked } = collection;
  const freed = garbage.reduce((sum, one) => sum + one.allocated, 0);
  if (wantsJson(input)) {
    sayJson(context, { ...collection, freed, removed: yes });
    return 0;
  }
  if (garbage.length > 0) {
    const rows = garbage.map((one) => [
      yes ? '-' : ' ',
      shown(context, one.path),
      humanSize(one.allocated),
      one.why,
    ]);
    say(context, table(rows, [2]));
  }
  for (const one of kept) say(context, `  ${shown(context, one.path)} stays: ${one.why}`);
  const what = `${count(garbage.length, 'thing')}, ${humanSize(freed)}`;
  if (garbage.length === 0) say(context, 'There is nothing to remove');
  else if (yes) say(context, `Removed ${what}`);
  else {
    say(
      context,
      `Would remove ${what}; --yes does it. Clones were looked for in ${looked.map((one) => shown(context, one)).join(', ')}.`,
    );
  }
  return 0;
};

export const run: LabCommand = async (input, context) => {
  const path = resolve(context.cwd, input.operands[0] ?? defaultLabFile);
  const named = statSync(path, { throwIfNoEntry: false })?.isFile();
  if (!named || !isRemote(loadLab(path, context.cwd))) return await onThisMachine(input, context);
  return await (await import('./remote/gc.ts')).run(input, context);
};

function keepOf(value: string | boolean | undefined): number {
  if (value === undefined) return 1;
  const keep = Number(value);
  if (Number.isInteger(keep) && keep >= 1) return keep;
  throw new DiskError('bad-argument', `--keep takes a number from 1 on, not "${value}"`);
}
