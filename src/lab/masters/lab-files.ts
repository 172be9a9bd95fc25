import { statSync } from 'node:fs';
import { join } from 'node:path';
import { isDiskError } from '../../errors.ts';
import { namesIn } from '../../platform/folder-names.ts';
import { readSmallText } from '../../platform/json-file.ts';
import { fileIdentity } from '../disks/overlay.ts';
import { realPath } from '../lab.ts';
import { loadLab } from '../spec/load.ts';

/** A lab file with the master that it names. */
export interface NamedMaster {
  readonly file: string;
  readonly master: string;
}

/** A file that may be a lab file, of which it is not known what it names. */
export interface UnreadLabFile {
  readonly file: string;
  /** Undefined: not even its text could be read. */
  readonly text?: string;
}

export interface LabFiles {
  readonly named: readonly NamedMaster[];
  readonly unread: readonly UnreadLabFile[];
}

const largestFile = 4 * 1024 * 1024;

const namesMaster = /^\s*["']?master["']?\s*:/m;

/** Whether a file is a lab's, whatever its name, also one with mistakes in it. */
export function isLabFile(file: string): boolean {
  if (!statSync(file, { throwIfNoEntry: false })?.isFile()) return false;
  const text = unreadFile(file)?.text;
  // Images of text have zeroes behind it.
  return text !== undefined && !text.includes('\0');
}

/** What the lab files in these folders name. YAML that has no `master` is something else; one with mistakes in it may be a lab's. */
export function labFilesIn(folders: readonly string[]): LabFiles {
  const named = new Map<string, string>();
  const unread = new Map<string, UnreadLabFile>();
  for (const folder of folders) {
    for (const name of namesInAny(folder)) {
      if (!/\.ya?ml$/i.test(name)) continue;
      const file = join(folder, name);
      try {
        named.set(file, loadLab(file, folder).master.path);
      } catch (error) {
        if (!isDiskError(error)) throw error;
        const mistaken = unreadFile(file);
        if (mistaken) unread.set(file, mistaken);
      }
    }
  }
  return { named: [...named].map(([file, master]) => ({ file, master })), unread: [...unread.values()] };
}

function unreadFile(file: string): UnreadLabFile | undefined {
  try {
    const text = readSmallText(file, largestFile) ?? '';
    return namesMaster.test(text) ? { file, text } : undefined;
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return error.code === 'corrupt' ? undefined : { file };
  }
}

/** The first of these files that may name an image of this name: its text has it, or could not be read. */
export function mayName(name: string, unread: readonly UnreadLabFile[]): string | undefined {
  return unread.find(({ text }) => text === undefined || text.includes(name))?.file;
}

/** The lab files whose master is one of these files, by whatever name. */
export function labFilesNaming(paths: readonly string[], named: readonly NamedMaster[]): readonly string[] {
  const wanted = new Set(paths.map(fileIdentity));
  return named.flatMap(({ file, master }) => {
    const identity = fileIdentity(master);
    return paths.includes(master) || (identity !== undefined && wanted.has(identity)) ? [file] : [];
  });
}

/** The file in one of the folders that describes the lab in one of these pools (absolute, symbolic links resolved). */
export function labFileOfPool(
  lab: string,
  pools: readonly string[],
  folders: readonly string[],
): string | undefined {
  for (const folder of folders) {
    for (const name of namesInAny(folder)) {
      if (!/\.ya?ml$/i.test(name)) continue;
      try {
        const spec = loadLab(join(folder, name), folder);
        if (spec.name === lab && pools.includes(realPath(spec.pool))) return spec.file;
      } catch (error) {
        if (!isDiskError(error)) throw error;
      }
    }
  }
  return undefined;
}

/** The names in a folder; none where there is no such folder, or something else has its name. */
export function namesInAny(folder: string): readonly string[] {
  return namesIn(folder, ['ENOENT', 'ENOTDIR']);
}
