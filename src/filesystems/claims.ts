import { isDiskError } from '../errors.ts';
import { foreignSignature } from './signatures.ts';
import type { Volume } from './volumes.ts';

/** Partition types under which no file system is looked for: what lies there is read by its own kind only. */
const foreignTypes = new Set([
  ...['8e', 'fd', '82', 'bf', '42'],
  'E6D6D379-F507-44C2-A23C-238F2A3DF928',
  'A19D880F-05FC-4D3B-A006-743F0F84911E',
  '0657FD6D-A4AB-43C4-84E5-0933C84B4F4F',
  '6A898CC3-1DD2-11B2-99A6-080020736631',
  'CA7D7CCB-63ED-4C53-861C-1742536059CC',
  'AF9B60A0-1431-4F62-BC68-3311714A69AD',
  '5808C8AA-7E8F-42E0-85D2-E1E90434CFB3',
]);

/** Of these, what LVM itself lies in. */
const lvmTypes = new Set(['8e', 'E6D6D379-F507-44C2-A23C-238F2A3DF928']);

/**
 * Why bytes of volumes of one disk may belong to somebody else too, in words, so that nothing of them may be called free or changed from outside:
 * another volume, what the partition's type or a mark on it says, a snapshot. None of a volume: nothing is known to.
 */
export async function claimsOn(volumes: readonly Volume[]): Promise<ReadonlyMap<Volume, string>> {
  const overlapping = overlapsOf(volumes);
  const marks = new Map<number, string | undefined>();
  const claims = new Map<Volume, string>();
  for (const volume of volumes) {
    const { partition, logical, physical } = volume;
    const type = partition?.type ?? physical?.partition?.type;
    const isOwn = physical !== undefined && type !== undefined && lvmTypes.has(type);
    if (physical && !marks.has(physical.offset)) marks.set(physical.offset, await markOf(physical));
    const mark = physical && marks.get(physical.offset);
    if (overlapping.has(volume)) claims.set(volume, 'it overlaps another volume');
    else if (logical?.heldBy !== undefined) claims.set(volume, logical.heldBy);
    else if (type !== undefined && foreignTypes.has(type) && !isOwn)
      claims.set(volume, `its type (${type}) is that of no file system`);
    else if (mark !== undefined) claims.set(volume, `what it lies in carries the mark of ${mark}`);
  }
  return claims;
}

async function markOf({ bytes }: NonNullable<Volume['physical']>): Promise<string | undefined> {
  try {
    return await foreignSignature(bytes, { isLvm: true });
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return error.message;
  }
}

interface Claim {
  readonly start: number;
  readonly end: number;
  readonly owners: readonly Volume[];
}

/** Volumes of which something lies over another one, or over itself; physical volumes of LVM count whole against all that is not theirs. */
function overlapsOf(volumes: readonly Volume[]): ReadonlySet<Volume> {
  const inside: Claim[] = [];
  const outside: Claim[] = [];
  const groups = new Map<number, { readonly end: number; readonly owners: Volume[] }>();
  for (const volume of volumes) {
    for (const { offset, length } of volume.pieces) {
      const claim = { start: offset, end: offset + length, owners: [volume] };
      inside.push(claim);
      if (!volume.physical) outside.push(claim);
    }
    if (!volume.physical) continue;
    const { offset, length } = volume.physical;
    const group = groups.get(offset) ?? { end: offset + length, owners: [] };
    groups.set(offset, group);
    group.owners.push(volume);
  }
  for (const [start, { end, owners }] of groups) outside.push({ start, end, owners });
  const found = new Set<Volume>();
  for (const claims of [inside, outside]) {
    let last: Claim | undefined;
    for (const claim of claims.sort((a, b) => a.start - b.start)) {
      if (last && claim.start < last.end) for (const one of [...last.owners, ...claim.owners]) found.add(one);
      if (!last || claim.end > last.end) last = claim;
    }
  }
  return found;
}
