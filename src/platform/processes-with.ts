import { readdirSync, readFileSync, statSync } from 'node:fs';

/** A process, and what it is called (15 characters of it). */
export interface NamedProcess {
  readonly pid: number;
  readonly name: string;
}

/** Other processes that have a file open, as far as we may look: a plain user sees his own. Empty where there is no /proc. */
export function processesWith(path: string): readonly NamedProcess[] {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    const pids = readdirSync('/proc')
      .map(Number)
      .filter((pid) => pid > 0 && pid !== process.pid);
    return pids.filter((pid) => hasOpen(pid, dev, ino)).map((pid) => ({ pid, name: nameOf(pid) }));
  } catch {
    return [];
  }
}

function hasOpen(pid: number, dev: bigint, ino: bigint): boolean {
  const folder = `/proc/${pid}/fd`;
  try {
    return readdirSync(folder).some((fd) => {
      const stat = statSync(`${folder}/${fd}`, { bigint: true, throwIfNoEntry: false });
      return stat?.ino === ino && stat.dev === dev;
    });
  } catch {
    // It has ended, or is none of our business.
    return false;
  }
}

function nameOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return 'a program';
  }
}
