import { existsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { isDiskError } from '../../errors.ts';
import { recordsFor } from '../../platform/dependents.ts';
import { backingPathOf, fileIdentity, type ImageHead, readImageHead } from '../disks/overlay.ts';
import { scanImages } from './scan.ts';

/** An image and those that stand on it. */
export interface TreeNode {
  readonly path: string;
  /** Bytes, as `ls -l` and as `du` says. */
  readonly apparent: number;
  readonly allocated: number;
  /** Nobody has the right to write to it. */
  readonly readOnly: boolean;
  readonly lab?: string;
  readonly seat?: string;
  readonly children: readonly TreeNode[];
}

/** A backing chain longer than this is a loop or madness. */
const longestChain = 512;

/**
 * The tree that an image belongs to: its backing chain down to the bottom, and everything that stands on any of it, as
 * far as it is found in `folders` and in the records beside the images.
 */
export function imageTree(path: string, folders: readonly string[]): TreeNode {
  const chain = [path];
  const seen = new Set([fileIdentity(path)]);
  while (chain.length < longestChain) {
    const head = readImageHead(chain[chain.length - 1]);
    const backing = head && backingPathOf(head);
    const identity = backing === undefined ? undefined : fileIdentity(backing);
    if (identity === undefined || seen.has(identity)) break;
    seen.add(identity);
    chain.push(backing!);
  }
  const recorded = chain.flatMap((one) => {
    try {
      return recordsFor(one).flatMap((record) => record.dependents);
    } catch (error) {
      // The files themselves still tell.
      if (isDiskError(error)) return [];
      throw error;
    }
  });
  const beside = [...recorded, ...chain].map((one) => dirname(one)).filter((one) => existsSync(one));
  const byBacking = new Map<string, ImageHead[]>();
  for (const image of scanImages(folders, beside).images) {
    const backing = backingPathOf(image);
    const identity = backing === undefined ? undefined : fileIdentity(backing);
    if (identity === undefined) continue;
    const list = byBacking.get(identity);
    if (list) list.push(image);
    else byBacking.set(identity, [image]);
  }
  return nodeOf(chain[chain.length - 1], byBacking, new Set());
}

function nodeOf(
  path: string,
  byBacking: ReadonlyMap<string, readonly ImageHead[]>,
  above: ReadonlySet<string>,
): TreeNode {
  const identity = fileIdentity(path) ?? path;
  const head = readImageHead(path);
  const children = above.has(identity) ? [] : (byBacking.get(identity) ?? []);
  const path_ = new Set([...above, identity]);
  return {
    path,
    apparent: head?.apparent ?? 0,
    allocated: head?.allocated ?? 0,
    readOnly: head !== undefined && (statSync(path).mode & 0o222) === 0,
    lab: head?.provenance?.lab,
    seat: head?.provenance?.seat,
    children: children.map((child) => nodeOf(child.path, byBacking, path_)),
  };
}
