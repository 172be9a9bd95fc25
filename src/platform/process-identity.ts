import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

/**
 * Where process numbers mean what they mean here: this boot of this kernel, this PID namespace (container). Eight
 * hexadecimal digits; empty where the system does not tell.
 */
export function processPlace(): string {
  place ??= findPlace();
  return place;
}

let place: string | undefined;

/** The boot's first random digits, with the namespace's number over them: a hash would cost each start Node's `crypto`. */
function findPlace(): string {
  try {
    const boot = Number.parseInt(thisBoot(), 16);
    const space = Number(/\d+/.exec(readlinkSync('/proc/self/ns/pid')));
    return ((boot ^ space) >>> 0).toString(16).padStart(8, '0');
  } catch {
    return '';
  }
}

/** This boot of this kernel, for all of its containers: eight hexadecimal digits. Throws where the system does not tell. */
function thisBoot(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').slice(0, 8);
}

/** A host, as it tells itself from others that share a disk with it. */
export interface HostIdentity {
  /** This boot: eight hexadecimal digits; `-` where the system does not tell. */
  readonly boot: string;
  /** From the machine-id, which is not to be told to others as it is: eight hexadecimal digits; `-` where there is none (containers). */
  readonly machine: string;
  /** For people; no space in it. */
  readonly name: string;
}

/** This host. Found anew at each call: names change. */
export function hostIdentity(): HostIdentity {
  return {
    boot: orDash(thisBoot),
    machine: orDash(machineDigits),
    name: hostname().replace(/[^\w.-]/g, '_'),
  };
}

function machineDigits(): string {
  const id = readFileSync('/etc/machine-id', 'latin1').trim();
  if (!/^[0-9a-f]{32}$/.test(id)) return '';
  let folded = 0;
  for (let at = 0; at < id.length; at += 8) folded ^= Number.parseInt(id.slice(at, at + 8), 16);
  return (folded >>> 0).toString(16).padStart(8, '0');
}

function orDash(find: () => string): string {
  try {
    return find() || '-';
  } catch {
    return '-';
  }
}

/**
 * When a process began, in clock ticks since boot, as a decimal number: with its number it names one process of
 * this boot for good, though numbers are used again. Undefined when there is no such process, or /proc does not show it.
 */
export function processStart(pid: number): string | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The second field is the program's name in parentheses, and may hold anything; starttime is the 22nd.
  return text.slice(text.lastIndexOf(')') + 2).split(' ')[19];
}

/** Whether a process of that number exists, even somebody else's. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

let mark: string | undefined;

/** This process, in names of files: `PID-START.PLACE`. */
export function processMark(): string {
  mark ??= `${process.pid}-${processStart(process.pid) ?? ''}.${processPlace()}`;
  return mark;
}

/** Whether the process of such a mark has ended. Undefined where it cannot be asked: it is of another boot, host or container. */
export function hasEnded(marked: string): boolean | undefined {
  const [, pid, start, where] = /^(\d+)-([0-9a-z]*)(?:\.([0-9a-z]*))?$/.exec(marked) ?? [];
  if (start === undefined || start === '' || !where || where !== processPlace()) return undefined;
  const begun = processStart(Number(pid));
  // Of other users' processes /proc need not tell anything (hidepid).
  return begun === undefined ? !isAlive(Number(pid)) : begun !== start;
}
