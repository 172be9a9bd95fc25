import { readdirSync } from 'node:fs';
import { asSystemError, errnoOf } from './errno.ts';

/** The names in a folder; none where there is no such folder (`none`: or what else the system may say). Throws all other errors. */
export function namesIn(folder: string, none: readonly string[] = ['ENOENT']): readonly string[] {
  try {
    return readdirSync(folder);
  } catch (cause) {
    if (none.includes(errnoOf(cause) ?? '')) return [];
    throw asSystemError(cause, 'look into', folder);
  }
}
