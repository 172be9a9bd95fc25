import { statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { DiskError } from '../../errors.ts';
import { count } from '../describe.ts';
import { realPath } from '../lab.ts';
import { folderLock } from '../masters/library.ts';
import { type MovePlan, moveMaster, planMove } from '../masters/move.ts';
import { lockPool, type PoolLock } from '../pool-lock.ts';
import { removeEmptyRecords } from '../state.ts';
import { type LabCommand, say, sayJson, shown, wantsJson } from './command.ts';

/** `cowherd move`: moves a master, and lets everything that stands on it follow. */
export const run: LabCommand = async (input, context) => {
  const [source, target, ...rest] = input.operands;
  const from = realPath(resolve(context.cwd, source));
  const given = realPath(resolve(context.cwd, target));
  const isFolder = statSync(given, { throwIfNoEntry: false })?.isDirectory() ?? target.endsWith('/');
  const to = isFolder ? join(given, basename(from)) : given;
  if (from === to) throw new DiskError('bad-argument', `'${source}' is there already`, { path: from });
  const places = [context.cwd, ...rest.map((one) => resolve(context.cwd, one))];
  const plan = await planMove(from, to, places);
  if (input.options.dryRun !== true) {
    const held: PoolLock[] = [];
    try {
      const { path, what } = folderLock(dirname(from));
      held.push(await lockPool(path, what));
      for (const state of plan.states) {
        const lab = basename(state).replace(/^lab-(.*)\.json$/, '$1');
        held.push(await lockPool(state.replace(/\.json$/, '.lock'), `the lab "${lab}"`));
      }
      await moveMaster(await planMove(from, to, places), context.signal);
    } finally {
      for (const lock of held) lock[Symbol.dispose]();
      removeEmptyRecords(dirname(from));
    }
  }
  if (wantsJson(input)) sayJson(context, { ...plan, dryRun: input.options.dryRun === true });
  else
    for (const line of linesOf(plan, input.options.dryRun === true, (path) => shown(context, path)))
      say(context, line);
  return 0;
};

function linesOf(plan: MovePlan, dryRun: boolean, name: (path: string) => string): readonly string[] {
  const { from, to, children, labFiles } = plan;
  return [
    `${dryRun ? 'Would move' : 'Moved'} ${name(from)} to ${name(to)}${plan.resumed ? ' (completing a move that was cut off)' : ''}`,
    `  ${count(children.length, 'clone')} ${dryRun ? 'would name' : 'now name'}${!dryRun && children.length === 1 ? 's' : ''} it there`,
    ...labFiles.map(
      (file) =>
        `  ${name(file)} ${dryRun ? 'would name' : 'names'} it there; 'cowherd up' renews the definitions`,
    ),
  ];
}
