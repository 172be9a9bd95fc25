import { readdirSync, readFileSync } from 'node:fs';

/** How many files more this process may open (proc(5)), and how many at all; undefined where nobody says. */
export function openFilesLeft(): { readonly left: number; readonly limit: number } | undefined {
  try {
    const limit = Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]);
    const open = readdirSync('/proc/self/fd').length;
    return Number.isNaN(limit) ? undefined : { left: Math.max(0, limit - open), limit };
  } catch {
    return undefined;
  }
}
