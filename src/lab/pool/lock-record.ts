import { hostIdentity, isAlive, processPlace, processStart } from '../../platform/process-identity.ts';

/*
 * What a lock file says: `PID START PLACE BOOT MACHINE HOW HOST`. The first three name the process where its number means something, the rest
 * the host. HOW is `locked` where the holder has a lock of the system on the file too, which reaches all hosts: that tells then
 * whether it still works, from anywhere; `cut` where HOST is only how the host's name begins.
 */

/** `locked`: the writer is going to lock the file it writes this into. */
export function lockRecord(locked: boolean): string {
  return record(locked ? 'locked' : '-');
}

/** The longest target that ext4 keeps in a symbolic link itself. (XFS and btrfs keep longer ones.) */
const linkBytes = 59;

/** As `lockRecord(false)`, for a lock that lies in a link: so short that this takes no block of the file system. */
export function linkRecord(): string {
  const whole = lockRecord(false);
  return whole.length <= linkBytes ? whole : record('cut').slice(0, linkBytes);
}

function record(how: 'locked' | 'cut' | '-'): string {
  const { boot, machine, name } = hostIdentity();
  const process = `${globalThis.process.pid} ${processStart(globalThis.process.pid) ?? ''} ${processPlace()}`;
  return `${process} ${boot} ${machine} ${how} ${name}`;
}

export interface LockHolder {
  readonly pid: number;
  /** Its name, where it may be another one than this host. */
  readonly host?: string;
  /**
   * `ask`: the lock on the file tells. `unknown`: nobody can tell here, and it is taken for held.
   */
  readonly state: 'runs' | 'ended' | 'ask' | 'unknown';
  /** What is to be believed where `ask` cannot be done. */
  readonly otherwise: 'ended' | 'unknown';
}

/**
 * Who holds a lock, and what can be known here of whether he still works. A process of this boot and container is looked for. Without a lock
 * to ask, this host's before it started anew are dead, and those of its other containers are taken for dead, which nobody can look for.
 */
export function holderOf(text: string): LockHolder {
  const [digits, start, place, boot, machine, how, name] = text.split(' ');
  const pid = Number(digits);
  const ended = { pid, state: 'ended', otherwise: 'ended' } as const;
  if (digits === '' || !Number.isSafeInteger(pid) || pid < 1) return ended;
  if (place === processPlace()) return isRunning(pid, start) ? { ...ended, state: 'runs' } : ended;
  // As it was written once, without a host.
  if (name === undefined) return ended;
  const here = hostIdentity();
  const asked = how === 'locked' ? 'ask' : undefined;
  const isHere = how === 'cut' ? here.name.startsWith(name) : name === here.name;
  const host = how === 'cut' ? `${name}…` : name;
  const named = isHere ? {} : { host };
  if (boot === here.boot && boot !== '-') return { ...ended, ...named, state: asked ?? 'ended' };
  // Asked all the same: machines are cloned, and then have one number, and containers none. The host is named, though it has our name.
  if (machine === here.machine && isHere) return { ...ended, host, state: asked ?? 'ended' };
  return { pid, host, state: asked ?? 'unknown', otherwise: 'unknown' };
}

function isRunning(pid: number, start: string): boolean {
  const begun = start === '' ? undefined : processStart(pid);
  // Of other users' processes /proc need not tell anything (hidepid).
  return begun === undefined ? isAlive(pid) : begun === start;
}
