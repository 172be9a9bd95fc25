import { readdirSync, readFileSync, statSync } from 'node:fs';

/** A process, and what it is called (15 characters of it). */
export interface NamedProcess {
  readonly pid: number;
  readonly name: string;
}

export interface ProcessSearch {
  /** Of these only, by number. */
  readonly among?: readonly number[];
  /** Those only that may write to the file. */
  readonly writing?: boolean;
}

/** Other processes that have a file open, as far as we may look: a plain user sees his own. Empty where there is no /proc. */
export function processesWith(
  path: string,
  { among, writing = false }: ProcessSearch = {},
): readonly NamedProcess[] {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    const pids = (among ?? readdirSync('/proc').map(Number)).filter((pid) => pid > 0 && pid !== process.pid);
    return pids.filter((pid) => hasOpen(pid, dev, ino, writing)).map((pid) => ({ pid, name: nameOf(pid) }));
  } catch {
    return [];
  }
}

/** Who has started this process, and who has started that one, and so on. Empty where there is no /proc. */
export function ancestors(): readonly number[] {
  const found: number[] = [];
  try {
    for (let pid = process.ppid; pid > 0 && !found.includes(pid); pid = parentOf(pid)) found.push(pid);
  } catch {
    // It has ended: whoever has its children now has not started them.
  }
  return found;
}

function parentOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // A name may hold spaces and parentheses.
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
}

function hasOpen(pid: number, dev: bigint, ino: bigint, writing: boolean): boolean {
  const folder = `/proc/${pid}/fd`;
  try {
    return readdirSync(folder).some((fd) => {
      const stat = statSync(`${folder}/${fd}`, { bigint: true, throwIfNoEntry: false });
      return stat?.ino === ino && stat.dev === dev && (!writing || mayWrite(pid, fd));
    });
  } catch {
    // It has ended, or is none of our business.
    return false;
  }
}

/** The flags of open(2) are octal there; the last two bits are the way it was opened, and 0 is O_RDONLY. */
function mayWrite(pid: number, fd: string): boolean {
  const flags = /^flags:\s+([0-7]+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1];
  return flags !== undefined && (Number.parseInt(flags, 8) & 3) !== 0;
}

function nameOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return 'a program';
  }
}
