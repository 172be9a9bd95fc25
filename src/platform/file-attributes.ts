/** What a file has besides its bytes: permissions, an owner, an access control list, extended attributes. */
import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, type Stats, statSync } from 'node:fs';
import { errnoName, errnoOf, systemError } from './errno.ts';
import { type Libc, libc } from './libc.ts';

const aclName = 'system.posix_acl_access';
/** The kernel's limit for one attribute, and for the list of names. */
const longest = 65536;

/**
 * Not for a file of other content: what programs may do that are run from it, which the kernel takes away whenever a file is written to,
 * and sums of the content (the kernel makes them anew). overlayfs keeps in its own where a file's content is to be had: another file's.
 * XFS shows an access control list a second time.
 */
const ofContent = /^security\.(capability|ima|evm)$|^(trusted|user)\.overlay\.|^trusted\.SGI_ACL_/;

/** The user may not, a container does not know the owner, the file system has none. */
const cannotOwn = ['EPERM', 'EINVAL', 'ENOSYS', 'ENOTSUP'];

export interface CopyAttributesOptions {
  /** Its permissions, in place of the other file's, whose access control list it does not get then. */
  readonly mode?: number;
}

/**
 * Gives a file the permissions of another one with its access control list, its owner and extended attributes where that may be.
 * Nothing where that is no regular file. What cannot be copied narrows access, and never widens it: where the owner or the list does not
 * go over, neither does what only the list kept from others. Without koffi there are no extended attributes, and a list is left out so.
 */
export function copyAttributes(from: string, to: string, { mode }: CopyAttributesOptions = {}): void {
  const old = statSync(from, { throwIfNoEntry: false });
  // What a link to a device has is the device's.
  if (!old?.isFile()) return;
  const sameGroup = copyOwner(old, to);
  const system = libc();
  if (system) copyExtended(system, from, to);
  if (mode !== undefined) {
    setMode(to, mode);
    return;
  }
  const bits = old.mode % 0o10000;
  const acl = system && aclOf(system, from);
  // The folder may have given the new file a list; the mode would be its mask.
  if (
    acl === 'unknown' ||
    (!system && !modeSaysAll([from, to])) ||
    (system && !acl && !dropAcl(system, to))
  ) {
    setMode(to, bits & ~0o070);
  } else if (!system || !acl) {
    setMode(to, sameGroup ? bits : withOthersRights(bits));
  } else {
    const wanted = sameGroup ? acl : withGroupAsOthers(acl);
    const answer = system.setxattr(to, aclName, wanted);
    if (answer >= 0) setMode(to, (bits & ~0o777) | modeOf(wanted));
    else {
      const dropped = dropAcl(system, to);
      setMode(to, (bits & ~0o077) | (dropped ? leastOf(wanted) : leastOf(wanted) & 0o007));
    }
  }
}

/** Not where nothing would change: some file systems (FUSE, FAT, SMB) know one mode for all files, and refuse to be asked for any. */
export function setMode(path: string, bits: number): void {
  if ((statSync(path).mode & 0o7777) !== bits) chmodSync(path, bits);
}

/** The owner first: changing it clears the set-user-ID bits. Only the superuser can, and it is no reason to fail. Answers whether the group is the old one. */
function copyOwner(old: Stats, to: string): boolean {
  const own = statSync(to);
  if (old.uid === own.uid && old.gid === own.gid) return true;
  for (const uid of [old.uid, own.uid]) {
    try {
      chownSync(to, uid, old.gid);
      return true;
    } catch (error) {
      if (!cannotOwn.includes(errnoOf(error) ?? '')) throw error;
    }
  }
  return old.gid === own.gid;
}

/** Everything but the list of POSIX, as far as the caller and the file system let us. */
function copyExtended(system: Libc, from: string, to: string): void {
  for (const name of namesOf(system, from)) {
    if (name === aclName || ofContent.test(name)) continue;
    const value = readAttribute(system, from, name);
    // Another owner's, a label that a policy keeps, a file system that has none: all of that is no reason to fail.
    if (value) system.setxattr(to, name, value);
  }
}

function namesOf(system: Libc, path: string): string[] {
  const into = Buffer.alloc(longest);
  const length = system.listxattr(path, into);
  return length <= 0 ? [] : into.toString('utf8', 0, length - 1).split('\0');
}

function readAttribute(system: Libc, path: string, name: string): Uint8Array | undefined {
  const into = new Uint8Array(longest);
  const length = system.getxattr(path, name, into);
  return length < 0 ? undefined : into.slice(0, length);
}

/** 'unknown': file systems of programs (FUSE) and rules for containers may forbid to ask. Throws where the disk fails. */
function aclOf(system: Libc, path: string): Uint8Array | 'unknown' | undefined {
  const into = new Uint8Array(longest);
  const length = system.getxattr(path, aclName, into);
  if (length >= 0) return into.slice(0, length);
  const errno = errnoName(length);
  if (errno === 'ENODATA' || errno === 'ENOTSUP' || errno === 'ENOSYS') return undefined;
  if (errno === 'EIO') throw systemError(errno, 'read the access control list of', path);
  return 'unknown';
}

/** Whether the file has no list then. */
function dropAcl(system: Libc, path: string): boolean {
  return aclOf(system, path) === undefined || system.removexattr(path, aclName) >= 0;
}

/** A list's entries as the kernel gives them: a version of four bytes, then tag, rights and whose they are, in eight bytes each. */
const tags = { user: 1, namedUser: 2, group: 4, namedGroup: 8, mask: 16, other: 32 } as const;

function entriesOf(
  acl: Uint8Array,
): { readonly at: number; readonly tag: number; readonly rights: number }[] {
  const view = new DataView(acl.buffer, acl.byteOffset, acl.length);
  const entries = [];
  for (let at = 4; at + 8 <= acl.length; at += 8) {
    entries.push({ at, tag: view.getUint16(at, true), rights: view.getUint16(at + 2, true) & 7 });
  }
  return entries;
}

const rightsOf = (acl: Uint8Array, tag: number) => entriesOf(acl).find((entry) => entry.tag === tag)?.rights;

/** The permission bits that a file with such a list has: those of the group are the mask. */
function modeOf(acl: Uint8Array): number {
  const group = rightsOf(acl, tags.mask) ?? rightsOf(acl, tags.group) ?? 0;
  return ((rightsOf(acl, tags.user) ?? 0) << 6) | (group << 3) | (rightsOf(acl, tags.other) ?? 0);
}

/** Bits for the group and others that give nobody what the list did not give him: a named user may be in the group, or be one of the others. */
function leastOf(acl: Uint8Array): number {
  const mask = rightsOf(acl, tags.mask) ?? 7;
  let least = mask & (rightsOf(acl, tags.group) ?? 0);
  for (const { tag, rights } of entriesOf(acl)) {
    if (tag === tags.namedUser || tag === tags.namedGroup) least &= rights;
  }
  return (least << 3) | (least & (rightsOf(acl, tags.other) ?? 0));
}

/** The file's group is another one than the old file's: to its members the old file's were others. */
function withOthersRights(bits: number): number {
  return (bits & ~0o070) | (bits & 0o070 & ((bits & 0o007) << 3));
}

function withGroupAsOthers(acl: Uint8Array): Uint8Array {
  const changed = acl.slice();
  const others = rightsOf(acl, tags.other) ?? 0;
  for (const { at, tag, rights } of entriesOf(acl)) {
    if (tag === tags.group) new DataView(changed.buffer).setUint16(at + 2, rights & others, true);
  }
  return changed;
}

/**
 * Whether permission bits are all that says who may do what with these files: with an access control list those of the group are but
 * its mask. With koffi, which can carry a list over, always true; without, `ls` is asked, and where there is none that tells, true.
 */
export function modeSaysAll(paths: readonly string[]): boolean {
  if (libc()) return true;
  const { stdout } = spawnSync('ls', ['-ldn', '--', ...paths], { encoding: 'latin1' });
  return !/^[-dlbcps][-rwxsStT]{9}\+/m.test(stdout ?? '');
}
