import { resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { createScratchFolder } from '../../platform/scratch-folder.ts';
import { count } from '../describe.ts';
import { assertWholeSource } from '../disks/whole-source.ts';
import { shellWord } from '../doctor/access.ts';
import { type MasterVersion, nextNumber } from '../masters/library.ts';
import { nameForVersionsOf, parseMasterName, versionLabel } from '../masters/name.ts';
import { withoutControls } from '../messages.ts';
import { makeFixed, planFixes } from '../seal/fix.ts';
import { type LintReport, lintImage } from '../seal/lint.ts';
import { type SealOptions, sealImage } from '../seal/seal.ts';
import {
  colours,
  type Input,
  type LabCommand,
  lazyProgress,
  say,
  sayJson,
  shown,
  wantsJson,
  warn,
} from './command.ts';
import { assertFileNotSaved } from './saved-memory.ts';

/** Where versions are kept unless another folder is named. */
export const defaultFolder = 'masters';

/** `cowherd seal`: looks into an image, and makes a version of a master of it. */
export const run: LabCommand = async (input, context) => {
  const [operand] = input.operands;
  const path = resolve(context.cwd, operand);
  const name = nameFrom(input, nameForVersionsOf(path));
  const format = typeof input.options.format === 'string' ? input.options.format : undefined;
  await assertFileNotSaved(path, context);
  await using image = await openImageFile(path, { format, policy: trustedImages });
  await assertWholeSource(image, { name: path, format, signal: context.signal });
  return await makeVersion(image, input, context, {
    name,
    origin: { how: input.options.fix === true ? 'seal --fix' : 'seal', image: nameForVersionsOf(path) },
  });
};

/** What becomes a version. */
export interface Made extends Pick<SealOptions, 'name' | 'origin'> {
  /** Keeps what would be gone with the command, where no version became of it, and answers with its path. */
  readonly keep?: () => string;
}

/**
 * Looks into the image and seals it, as the options say; with `--fix` a copy, out of which what was found has been taken. Exit code 1 where
 * clones would clash, and nothing was sealed then unless `--anyway` was said.
 */
export async function makeVersion(
  image: Image,
  input: Input,
  context: CliContext,
  made: Made,
): Promise<number> {
  const { keep } = made;
  if (!keep) return await orFixed(image, input, context, made);
  let kept: string | undefined;
  try {
    return await orFixed(image, input, context, { ...made, keep: () => (kept = keep()) });
  } catch (error) {
    // No room for a copy, say.
    kept ??= keep();
    warn(context, `what was made is kept; to go on: ${sealAgain(kept, input, context, made.name)}`);
    throw error;
  }
}

/** How a version is made of what was kept. */
function sealAgain(kept: string, input: Input, context: CliContext, name: string): string {
  const folder = folderFrom(input, context);
  const own = folder === resolve(context.cwd, defaultFolder) ? [] : ['--folder', shown(context, folder)];
  const words = ['seal', shown(context, kept), '--name', name, ...own];
  return `${context.program} ${words.map(shellWord).join(' ')}`;
}

function orFixed(image: Image, input: Input, context: CliContext, made: Made): Promise<number> {
  return (input.options.fix === true ? fixAndSeal : lintAndSeal)(image, input, context, made);
}

/** Takes out of a copy what can be, and seals that. */
async function fixAndSeal(image: Image, input: Input, context: CliContext, made: Made): Promise<number> {
  const plan = await planFixes(image, await lintImage(image));
  const changes = plan.flatMap((volume) => volume.changes);
  const only = input.options.dryRun === true || input.options.check === true;
  if (!wantsJson(input)) {
    for (const { do: what, path } of changes)
      say(context, `${only ? 'would ' : ''}${what} ${withoutControls(path)}`);
  }
  if (only) {
    if (wantsJson(input))
      sayJson(context, { changes: changes.map(({ do: what, path }) => ({ do: what, path })) });
    else say(context, `Nothing was changed: ${count(changes.length, 'change')} to a copy`);
    return 0;
  }
  const folder = folderFrom(input, context);
  makeFolder(folder);
  using scratch = createScratchFolder(folder, made.name, leftBehind(context, folder));
  const fixed = scratch.file('disk.raw');
  const bar = lazyProgress(context, 'copying', 'bytes');
  try {
    await makeFixed(image, fixed, plan, { signal: context.signal, onProgress: bar.update });
  } finally {
    bar.end();
  }
  await using copy = await openImageFile(fixed, { format: 'raw' });
  const origin = { ...made.origin, changes: changes.length };
  return await lintAndSeal(copy, input, context, { ...made, origin });
}

/** Says of a folder for what was needed on the way that it could not be removed. */
export function leftBehind(context: CliContext, folder: string): (error: DiskError) => void {
  return ({ message }) => warn(context, `${message}; 'cowherd gc ${shown(context, folder)}' removes it`);
}

function folderFrom(input: Input, context: CliContext): string {
  const { folder } = input.options;
  return resolve(context.cwd, typeof folder === 'string' ? folder : defaultFolder);
}

/** The name that an option or else `fallback` gives. Throws `bad-argument` for one with a number. */
export function nameFrom(input: Input, fallback: string): string {
  const text = typeof input.options.name === 'string' ? input.options.name : fallback;
  const { name, number } = parseMasterName(text);
  if (number === undefined) return name;
  throw new DiskError('bad-argument', `"${text}" has a number: versions get theirs by themselves`, {
    field: 'name',
  });
}

async function lintAndSeal(image: Image, input: Input, context: CliContext, made: Made): Promise<number> {
  const { keep, ...options } = made;
  const report = await lintImage(image);
  const refused = clonesWouldClash(report) && input.options.anyway !== true;
  const dryRun = input.options.dryRun === true;
  const seals = !refused && input.options.check !== true;
  const folder = folderFrom(input, context);
  let version: MasterVersion | undefined;
  if (!wantsJson(input)) describeFindings(report, context);
  if (seals && !dryRun) {
    const bar = lazyProgress(context, 'copying', 'bytes');
    try {
      version = await sealImage(image, {
        ...options,
        folder,
        now: context.now,
        signal: context.signal,
        onProgress: bar.update,
      });
    } finally {
      bar.end();
    }
  }
  const kept = refused ? keep?.() : undefined;
  const next = seals && dryRun ? versionLabel(options.name, nextNumber(folder, options.name)) : undefined;
  if (wantsJson(input)) {
    sayJson(context, {
      ...report,
      master: version?.label ?? next ?? null,
      path: version?.path ?? null,
      content: version?.record?.content ?? null,
      ...(dryRun ? { dryRun } : {}),
      ...(kept === undefined ? {} : { kept }),
    });
  } else if (next !== undefined) say(context, `Would seal it as ${next} in ${shown(context, folder)}`);
  else if (version) {
    say(context, `${version.label} is sealed: ${shown(context, version.path)}`);
    say(context, `  ${version.record?.content ?? ''}`);
  } else if (kept !== undefined) {
    say(context, `Not sealed: clones would clash. What was made is kept: ${shown(context, kept)}`);
    const how = input.options.fix === true ? '--anyway' : '--fix (or --anyway)';
    say(context, `  ${sealAgain(kept, input, context, made.name)} ${how}`);
  } else if (refused) {
    const fix = input.options.fix === true ? '' : 'let --fix take it out of the copy, ';
    say(context, `Not sealed: clones would clash. Do the above in the guest, ${fix}or say --anyway`);
  }
  return refused ? 1 : 0;
}

/** Whether sealing needs `--anyway`. */
export function clonesWouldClash({ findings }: LintReport): boolean {
  return findings.some(({ weight }) => weight === 'clash');
}

/** What clones would share, for people. */
export function describeFindings({ findings, notes }: LintReport, context: CliContext): void {
  const c = colours(context);
  for (const { weight, path, what, fix } of findings) {
    say(
      context,
      `${weight === 'clash' ? c.red('✗') : c.yellow('!')} ${withoutControls(path)}: ${withoutControls(what)}`,
    );
    say(context, `    ${c.bold(withoutControls(fix))}`);
  }
  for (const note of notes) say(context, `  (${withoutControls(note)})`);
  const clashes = findings.filter(({ weight }) => weight === 'clash').length;
  say(context, `${count(clashes, 'conflict')}, ${count(findings.length - clashes, 'leftover')}`);
}
