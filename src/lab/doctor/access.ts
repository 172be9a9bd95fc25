import { spawnSync } from 'node:child_process';
import { accessSync, constants, lstatSync, type Stats } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { errnoOf } from '../../platform/errno.ts';
import { linkTargetOf } from '../../platform/host-names.ts';
import type { Account } from './account.ts';

/** What is wrong with one path, and the command that puts it right. */
export interface Finding {
  readonly path: string;
  readonly what: string;
  readonly fix: string;
}

/** As path_resolution(7): more links than this are a loop. */
const mostLinks = 40;

/**
 * Walks a path as the kernel does for `account`: every folder must let it pass, links are followed. Finds what stops it,
 * folder by folder, then whether the file itself may be read, or written. Looks at modes; where these say no, the
 * superuser has the kernel say the last word, which knows access lists too.
 */
export function walkPath(path: string, account: Account, wants: 'read' | 'write'): readonly Finding[] {
  const findings: Finding[] = [];
  const looked = new Set<string>();
  const enter = (folder: string): boolean => {
    if (looked.has(folder)) return true;
    looked.add(folder);
    const stat = lstatSync(folder);
    if (!allows(stat, account, 1) && !kernelAllows(folder, account, '-x')) {
      const what = `${account.name} may not enter this folder (${describe(stat)})`;
      findings.push({ path: folder, what, fix: `chmod o+x ${shellWord(folder)}` });
    }
    return true;
  };
  let links = 0;
  const rest = resolve(path).split('/').slice(1);
  let at = '/';
  while (rest.length > 0) {
    const name = rest.shift()!;
    if (name === '' || name === '.') continue;
    if (name === '..') {
      at = dirname(at);
      continue;
    }
    const next = join(at, name);
    let stat: Stats;
    try {
      enter(at);
      stat = lstatSync(next);
    } catch (cause) {
      findings.push(missing(next, path, cause));
      return findings;
    }
    if (stat.isSymbolicLink()) {
      links += 1;
      if (links > mostLinks) {
        findings.push({
          path: next,
          what: 'this symbolic link leads in a circle',
          fix: `rm ${shellWord(next)}`,
        });
        return findings;
      }
      const target = linkTargetOf(next);
      rest.unshift(...target.split('/'));
      if (target.startsWith('/')) at = '/';
    } else at = next;
  }
  return [...findings, ...fileFindings(at, account, wants)];
}

function fileFindings(path: string, account: Account, wants: 'read' | 'write'): readonly Finding[] {
  const stat = lstatSync(path);
  if (stat.isDirectory()) {
    return [{ path, what: 'this is a folder, not an image', fix: `ls -l ${shellWord(path)}` }];
  }
  const barred = wants === 'write' ? unwritable(path) : undefined;
  if (barred) return [barred];
  // libvirt gives the file to QEMU's user first, whatever its mode was.
  if (account.becomesOwner) return [];
  const bits = wants === 'write' ? 6 : 4;
  if (allows(stat, account, bits)) return [];
  const flags = wants === 'write' ? ['-r', '-w'] : ['-r'];
  if (flags.every((flag) => kernelAllows(path, account, flag))) return [];
  const verb = wants === 'write' ? 'read and write' : 'read';
  const what = `${account.name} may not ${verb} this file (${describe(stat)})`;
  const fix = wants === 'write' ? `chown ${account.name} ${shellWord(path)}` : `chmod o+r ${shellWord(path)}`;
  return [{ path, what, fix }];
}

/** What keeps everybody from writing to a file, the superuser too. */
function unwritable(path: string): Finding | undefined {
  try {
    accessSync(path, constants.W_OK);
    return undefined;
  } catch (cause) {
    const word = shellWord(path);
    switch (errnoOf(cause)) {
      case 'EROFS': {
        const fix = `mount -o remount,rw "$(findmnt -n -o TARGET -T ${word})"`;
        return { path, what: 'its file system is mounted read-only', fix };
      }
      case 'EPERM':
        return { path, what: 'it is immutable: nobody may write to it', fix: `chattr -i ${word}` };
      default:
        return undefined;
    }
  }
}

function missing(path: string, whole: string, cause: unknown): Finding {
  const errno = errnoOf(cause);
  const seen = `ls -ld ${shellWord(dirname(path))}`;
  if (errno === 'ENOENT') {
    const what =
      path === whole ? 'there is no such file' : `there is no such folder or file, on the way to ${whole}`;
    return { path, what, fix: `${seen}   # was it moved, renamed, or is a file system not mounted?` };
  }
  if (errno === 'ENOTDIR') return { path, what: 'a file is in the place of a folder here', fix: seen };
  return { path, what: `you may not look here yourself (${errno})`, fix: 'run this as root' };
}

/** Whether the mode lets the account do all of `bits` (4 read, 2 write, 1 enter). */
export function allows(stat: Pick<Stats, 'mode' | 'uid' | 'gid'>, account: Account, bits: number): boolean {
  if (account.uid === 0) return true;
  const shift = stat.uid === account.uid ? 6 : account.gids.has(stat.gid) ? 3 : 0;
  return ((stat.mode >> shift) & 7 & bits) === bits;
}

/** Asks the kernel, as that account, which only the superuser can. */
function kernelAllows(path: string, account: Account, flag: string): boolean {
  if (process.geteuid?.() !== 0) return false;
  const [gid] = account.gids;
  return spawnSync('test', [flag, path], { uid: account.uid, gid, stdio: 'ignore' }).status === 0;
}

/** As `ls -l` begins: `drwx------ 0:0`. */
function describe(stat: Stats): string {
  const letters = 'rwxrwxrwx'.replace(/./g, (letter, i: number) => (stat.mode & (0o400 >> i) ? letter : '-'));
  return `${stat.isDirectory() ? 'd' : '-'}${letters}, owner ${stat.uid}, group ${stat.gid}`;
}

export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
