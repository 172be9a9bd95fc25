import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { assertText, isText, shownName, textOf } from '../bytes/byte-text.ts';
import { DiskError } from '../errors.ts';

/*
 * Node gives names of the host as text, with U+FFFD for bytes that are not UTF-8, and that is the name of another file.
 * Whatever names come from outside go through here: of links, folders, arguments and the environment.
 */

const replacement = '\ufffd';

/** A path with its symbolic links resolved. Throws what the system says, and `unsupported` where that is no UTF-8. */
export function realPathOf(path: string): string {
  return leadingTo(realpathSync.native(path, 'buffer'), path);
}

/** The same to compare names by, of files in any place (`textOf`); of what cannot be resolved the path as it is. Opens nothing. */
export function realNameOf(path: string): string {
  try {
    return textOf(realpathSync.native(path, 'buffer'));
  } catch {
    return path;
  }
}

/** What a symbolic link says. Throws as `realPathOf` does. */
export function linkTargetOf(path: string): string {
  return leadingTo(readlinkSync(path, 'buffer'), path);
}

function leadingTo(bytes: Uint8Array, link: string): string {
  const name = textOf(bytes);
  if (isText(name)) return name;
  throw new DiskError(
    'unsupported',
    `'${link}' leads to '${shownName(name)}', which is not UTF-8, and files of such names are not opened: rename that`,
    { path: link, field: 'file name' },
  );
}

/** Throws `unsupported` for a folder with a name in it that is not UTF-8: it could not be handled as what it is. */
export function assertTextNames(folder: string, names: readonly string[]): void {
  if (!names.some((name) => name.includes(replacement))) return;
  for (const bytes of readdirSync(folder, 'buffer')) {
    const name = textOf(bytes);
    if (!isText(name)) assertText(`${folder}/${name}`);
  }
}

/**
 * Why what this process was told cannot be taken for what it says: an argument, or the folder it runs in, that is not UTF-8. Undefined: it
 * can. `args` are those of the program itself, the last ones of the process.
 */
export function untrueNames(args: readonly string[], cwd: string): string | undefined {
  const odd = args.findIndex((arg) => arg.includes(replacement));
  if (odd >= 0) {
    const told = textsIn('/proc/self/cmdline')?.slice(-args.length);
    if (process.platform === 'linux' && told?.length !== args.length)
      return `Whether '${args[odd]}' is what was given cannot be told without /proc: mount it, or rename the file`;
    const untrue = told?.find((text) => !isText(text));
    if (untrue !== undefined)
      return `The argument '${shownName(untrue)}' is not UTF-8, and files of such names are not opened: rename the file, or give it another name beside that one (ln)`;
  }
  if (cwd.includes(replacement)) {
    const folder = process.platform === 'linux' ? ownFolder() : cwd;
    if (folder === undefined || !isText(folder))
      return `The current folder '${shownName(folder ?? cwd)}' is not UTF-8, and names in such a folder cannot be made out: rename it, or work from another one, by a symbolic link to it`;
  }
  return undefined;
}

/**
 * `path`, which comes from one of these variables of the environment (or from the list of users). Throws `unsupported` where it is not
 * UTF-8.
 */
export function placeTold(path: string, ...variables: readonly string[]): string {
  if (!path.includes(replacement) || process.platform !== 'linux') return path;
  const told = textsIn('/proc/self/environ')?.filter((text) => variables.includes(text.split('=')[0]));
  if (told?.some((text) => isText(text) && text.includes(replacement))) return path;
  throw new DiskError(
    'unsupported',
    `The folder '${path}' is not UTF-8 (shown with U+FFFD), and nothing can be kept there: set ${variables[0]} to another one`,
    { path, field: variables[0] },
  );
}

/** What the system keeps of this process's start: texts that end in a zero byte. Undefined where it does not tell. */
function textsIn(file: string): string[] | undefined {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(file);
  } catch {
    return undefined;
  }
  return textOf(bytes).split('\0').slice(0, -1);
}

function ownFolder(): string | undefined {
  try {
    return textOf(readlinkSync('/proc/self/cwd', 'buffer'));
  } catch {
    return undefined;
  }
}
