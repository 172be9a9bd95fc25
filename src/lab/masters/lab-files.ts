import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { isDiskError } from '../../errors.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { fileIdentity } from '../overlay.ts';
import { loadLab } from '../spec/load.ts';

/** The masters that lab files in these folders name. A lab file with mistakes in it names none. */
export function mastersInLabFiles(
  folders: readonly string[],
): readonly { readonly file: string; readonly master: string }[] {
  const found = new Map<string, string>();
  for (const folder of folders) {
    for (const name of namesIn(folder)) {
      if (!/\.ya?ml$/i.test(name)) continue;
      const file = join(folder, name);
      try {
        found.set(file, loadLab(file, folder).master.path);
      } catch (error) {
        if (!isDiskError(error)) throw error;
      }
    }
  }
  return [...found].map(([file, master]) => ({ file, master }));
}

/** The lab files whose master is one of these files, by whatever name. */
export function labFilesNaming(paths: readonly string[], folders: readonly string[]): readonly string[] {
  const wanted = new Set(paths.map(fileIdentity));
  return mastersInLabFiles(folders).flatMap(({ file, master }) => {
    const identity = fileIdentity(master);
    return paths.includes(master) || (identity !== undefined && wanted.has(identity)) ? [file] : [];
  });
}

/** The names in a folder; none where there is no such folder. */
export function namesIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return [];
    throw asSystemError(cause, 'look into', folder);
  }
}
