import { statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { DiskError } from '../../errors.ts';
import { count } from '../describe.ts';
import { type Lab, labLockPath, openLab, realPath } from '../lab.ts';
import { folderLock } from '../masters/library.ts';
import { noteMasterFolders } from '../masters/master-folders.ts';
import { type MovePlan, moveMaster, planMove } from '../masters/move.ts';
import { lockPool, type PoolLock } from '../pool/pool-lock.ts';
import { placeLock, readJournal } from '../pool-move/journal.ts';
import { movePool } from '../pool-move/move.ts';
import { planPoolMove } from '../pool-move/plan.ts';
import { prepareUp } from '../prepare.ts';
import { assertMakeable, loadLab } from '../spec/load.ts';
import { removeEmptyRecords } from '../state.ts';
import { applyDefinitions } from '../up.ts';
import {
  type Input,
  type LabCommand,
  lazyProgress,
  runnerOf,
  say,
  sayJson,
  shown,
  wantsJson,
} from './command.ts';
import { assertNoneSaved } from './saved-memory.ts';

/** `cowherd move`: moves a master, and lets everything that stands on it follow. */
export const run: LabCommand = async (input, context) => {
  const [source, target, ...rest] = input.operands;
  const from = realPath(resolve(context.cwd, source));
  const given = realPath(resolve(context.cwd, target));
  const isFolder = statSync(given, { throwIfNoEntry: false })?.isDirectory() ?? target.endsWith('/');
  const to = isFolder && readJournal(from)?.to !== given ? join(given, basename(from)) : given;
  if (from === to) throw new DiskError('bad-argument', `'${source}' is there already`, { path: from });
  const places = [context.cwd, ...rest.map((one) => resolve(context.cwd, one))];
  if (isPool(from)) return await movePoolTo(from, to, places, input, context);
  const plan = await planMove(from, to, places, context.signal);
  // One that was cut off is completed: what stands between is worse.
  if (!plan.resumed) await assertNoneSaved(plan.labFiles, context);
  if (input.options.dryRun !== true) {
    const held: PoolLock[] = [];
    const bar = lazyProgress(context, 'copying', 'bytes');
    try {
      const folders = new Set([from, to].map((path) => dirname(path)));
      for (const { path, what } of [...folders].map(folderLock)) held.push(await lockPool(path, what));
      for (const state of plan.states) {
        const lab = basename(state).replace(/^lab-(.*)\.json$/, '$1');
        held.push(await lockPool(state.replace(/\.json$/, '.lock'), `the lab "${lab}"`));
      }
      await moveMaster(await planMove(from, to, places, context.signal), {
        signal: context.signal,
        onProgress: bar.update,
      });
    } finally {
      bar.end();
      for (const lock of held) lock[Symbol.dispose]();
      for (const path of [from, to]) removeEmptyRecords(dirname(path));
    }
  }
  const { placed: _, ...told } = plan;
  if (wantsJson(input)) sayJson(context, { ...told, dryRun: input.options.dryRun === true });
  else
    for (const line of linesOf(plan, input.options.dryRun === true, (path) => shown(context, path)))
      say(context, line);
  return 0;
};

function isPool(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true || readJournal(path) !== undefined;
}

async function movePoolTo(
  from: string,
  to: string,
  places: readonly string[],
  input: Input,
  context: CliContext,
): Promise<number> {
  const folders = [...new Set([...places, dirname(from)])];
  const dryRun = input.options.dryRun === true;
  // Before anything is locked, which leaves folders: most refusals come here.
  let plan = await planPoolMove(from, to, folders);
  if (!plan.resumed) {
    const files = plan.labs.map(({ file }) => file);
    // Their definitions are made anew at the end.
    for (const file of files) assertMakeable(loadLab(file, context.cwd));
    await assertNoneSaved(files, context);
  }
  let left: readonly string[] = [];
  if (!dryRun) {
    const placeLocks: PoolLock[] = [];
    const held: PoolLock[] = [];
    const bar = lazyProgress(context, 'copying', 'bytes');
    try {
      for (const { path, what } of [from, to].map(placeLock)) placeLocks.push(await lockPool(path, what));
      plan = await planPoolMove(from, to, folders);
      const { labs } = plan;
      for (const { name } of labs)
        held.push(await lockPool(labLockPath(plan.placed ? to : from, name), `the lab "${name}"`));
      const onPlaced = () => {
        for (const [i, { name }] of labs.entries()) held[i].follow(labLockPath(to, name));
      };
      const renew = async () => {
        bar.end();
        const moved = labs.map(({ file }) => openLab(file, context.cwd, { moving: true }));
        for (const { spec, pool, state } of moved) if (state) noteMasterFolders(spec, pool, state);
        for (const lab of moved) await renewDefinitions(lab, context);
      };
      left = await movePool(await planPoolMove(from, to, folders), onPlaced, {
        signal: context.signal,
        onProgress: bar.update,
        renew,
      });
    } finally {
      bar.end();
      for (const lock of [...held, ...placeLocks]) lock[Symbol.dispose]();
      for (const place of [from, to]) removeEmptyRecords(dirname(place));
    }
  }
  const { clones, labs, resumed, mountPoint } = plan;
  if (wantsJson(input)) sayJson(context, { from, to, clones, labs, resumed, mountPoint, left, dryRun });
  else {
    const name = (path: string) => shown(context, path);
    const tail = resumed ? ' (completing a move that was cut off)' : '';
    say(context, `${dryRun ? 'Would move' : 'Moved'} the pool ${name(from)} to ${name(to)}${tail}`);
    say(
      context,
      `  ${count(clones.length, 'clone')}; ${labs.map((lab) => `${lab.name} (${name(lab.file)})`).join(', ')}`,
    );
    if (left.length > 0)
      say(context, `  ${name(from)} still has what came there meanwhile, or changed: ${left.join(', ')}`);
    else if (mountPoint)
      say(context, `  ${name(from)} is a mount point: it ${dryRun ? 'would stay' : 'stays'}, empty`);
  }
  return 0;
}

/** Definitions name disks by whole paths. */
async function renewDefinitions(lab: Lab, context: CliContext): Promise<void> {
  await using runner = await runnerOf(lab);
  const { plan } = await prepareUp(lab, { runner });
  await applyDefinitions(lab, plan.steps, { runner, signal: context.signal });
}

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
