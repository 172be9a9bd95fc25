import type * as fs from 'node:fs';
import { resolve } from 'node:path';

/*
 * Which files this process opens, for tests that must see that one is not. In the test's file:
 *
 *     vi.mock('node:fs', async (original) => (await import('./opened.ts')).recordOpens(await original()));
 */

const opened: string[] = [];
let files: typeof fs;

/** The module with an `openSync` that keeps the names. */
export function recordOpens(real: typeof fs): object {
  files = real;
  const openSync: typeof real.openSync = (path, ...rest) => {
    opened.push(String(path));
    return real.openSync(path, ...rest);
  };
  return { ...real, openSync, default: { ...real, openSync } };
}

/** What was opened since the last call, as it was named. */
export function takeOpened(): string[] {
  return opened.splice(0);
}

/** Of what was opened since the last call, what lies outside of `folder`, links resolved. */
export function strayed(folder: string, paths: readonly string[] = takeOpened()): string[] {
  const home = files.realpathSync(folder);
  const real = paths.map((path) => {
    const full = resolve(home, path);
    return files.existsSync(full) ? files.realpathSync(full) : full;
  });
  return real.filter((path) => path !== home && !path.startsWith(`${home}/`) && !path.startsWith('/proc/'));
}
