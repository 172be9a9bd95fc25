import { lstatSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { linkTargetOf, realPathOf } from './host-names.ts';

/*
 * Names of block devices. A logical volume's node is `/dev/dm-N`, and N is another one after the next start, or once another volume was
 * made; what lasts is the link to it: `/dev/VG/LV`, `/dev/mapper/NAME`, `/dev/disk/by-…`. Whatever is written down has to name
 * that, or it leads to another volume one day.
 */

/** As many links as the system follows. */
const mostLinks = 40;

/**
 * A path with its symbolic links resolved, but for the links of /dev that lead to a block device: those stay, as what they lead to
 * may be another device tomorrow. A device mapper's node gets the name that `/dev/mapper` has for it. Throws what the system says, and
 * `unsupported` for names that are not UTF-8.
 */
export function lastingPathOf(path: string): string {
  const real = realPathOf(path);
  const stats = statSync(real);
  if (!stats.isBlockDevice()) return real;
  return linkInDev(resolve(path)) ?? mapperName(real, stats.rdev) ?? real;
}

/** The first link in /dev on the way from `path`; undefined: there is none, or it leads out of /dev (`/dev/stdin`). */
function linkInDev(path: string): string | undefined {
  let at = path;
  for (let links = 0; links < mostLinks; links++) {
    const name = join(realPathOf(dirname(at)), basename(at));
    if (!lstatSync(name).isSymbolicLink()) return undefined;
    at = resolve(dirname(name), linkTargetOf(name));
    if (isInDev(name)) return isInDev(at) ? name : undefined;
  }
  return undefined;
}

function isInDev(path: string): boolean {
  return path.startsWith('/dev/');
}

/** Whether a path names a device mapper's node by its number. */
export function isNumberedDevice(path: string): boolean {
  return /^\/dev\/dm-[0-9]+$/.test(path);
}

function mapperName(node: string, device: number): string | undefined {
  if (!isNumberedDevice(node)) return undefined;
  try {
    const path = `/dev/mapper/${readFileSync(`/sys/class/block/${basename(node)}/dm/name`, 'utf8').trimEnd()}`;
    return statSync(path).rdev === device ? path : undefined;
  } catch {
    return undefined;
  }
}
