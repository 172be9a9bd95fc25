import { DiskError } from '../../errors.ts';
import type { SnapshotSelector } from '../driver.ts';
import type { SnapshotEntry } from './snapshots.ts';

/**
 * The place in the table of the snapshot meant, as QEMU finds it: a word is an id, or else a name; of several names
 * the first counts. Throws `not-found`.
 */
export function findSnapshot(
  entries: readonly SnapshotEntry[],
  wanted: SnapshotSelector,
  path: string,
): number {
  const at = typeof wanted === 'string' ? byWord(entries, wanted) : byParts(entries, wanted);
  if (at >= 0) return at;
  const shown = typeof wanted === 'string' ? wanted : (wanted.name ?? wanted.id ?? '');
  throw new DiskError('not-found', `The image has no snapshot '${shown}'`, {
    path,
    field: 'snapshot',
    detail: { snapshot: shown, errno: 'ENOENT' },
  });
}

function byWord(entries: readonly SnapshotEntry[], word: string): number {
  const byId = entries.findIndex(({ id }) => id === word);
  return byId >= 0 ? byId : entries.findIndex(({ name }) => name === word);
}

function byParts(
  entries: readonly SnapshotEntry[],
  wanted: { readonly id?: string; readonly name?: string },
): number {
  if (wanted.id === undefined && wanted.name === undefined) return -1;
  return entries.findIndex(
    ({ id, name }) =>
      (wanted.id === undefined || wanted.id === id) && (wanted.name === undefined || wanted.name === name),
  );
}

/** The id of a new snapshot: one more than the highest that is a number. */
export function nextSnapshotId(entries: readonly SnapshotEntry[]): string {
  let highest = 0n;
  for (const { id } of entries) {
    const digits = /^[0-9]+/.exec(id.trim());
    const value = digits ? BigInt(digits[0]) : 0n;
    if (value > highest) highest = value;
  }
  return String(highest + 1n);
}
