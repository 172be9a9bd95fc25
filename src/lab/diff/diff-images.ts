import { IntervalSet } from '../../bytes/intervals.ts';
import { humanSize } from '../../cli/sizes.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import type { ByteRange, FileSystem } from '../../filesystems/file-system.ts';
import { openFileSystem } from '../../filesystems/open.ts';
import { lieAlike, placesOf } from '../../filesystems/pieces.ts';
import { type Volume, volumesOf } from '../../filesystems/volumes.ts';
import type { Image } from '../../image/image.ts';
import { diffRanges } from './diff-ranges.ts';
import { diffTrees, type FileChange } from './diff-trees.ts';

/** What differs within a partition or a logical volume, or on a disk without any. */
export interface VolumeDiff {
  /** The partition's number; undefined: a logical volume, the whole disk, or what lies outside the partitions. */
  readonly partition?: number;
  /** `GROUP/NAME` of a logical volume (LVM). */
  readonly logical?: string;
  /** Of the disk after the change, in bytes. */
  readonly offset: number;
  readonly length: number;
  /** As blkid names it; undefined where it is none that is read here. */
  readonly fileSystem?: string;
  readonly label?: string;
  /** By file, where both sides have a file system that is read. */
  readonly files?: readonly FileChange[];
  /** Else by bytes within the disk. */
  readonly ranges?: readonly ByteRange[];
  /** What should be known of this answer. */
  readonly notes: readonly string[];
}

export interface ImageDiff {
  readonly before: number;
  readonly after: number;
  readonly volumes: readonly VolumeDiff[];
}

export interface DiffOptions {
  readonly signal?: AbortSignal;
}

/**
 * What `after` changed against `before`. Where `before` is in its chain, only what lies in the layers above it is
 * looked at: a file whose blocks neither moved nor lie there is not read. Sizes in bytes. Throws what reading throws.
 */
export async function diffImages(before: Image, after: Image, options: DiffOptions = {}): Promise<ImageDiff> {
  const touched = await touchedBytes(before, after);
  const volumes: VolumeDiff[] = [];
  const [old, now] = await Promise.all([volumesOf(before), volumesOf(after)]);
  const outside = new IntervalSet();
  /** Names of logical volumes that are not there any more. */
  const gone = new Set(old.flatMap(({ logical }) => logical?.name ?? []));
  outside.add(0, after.size);
  for (const volume of now) {
    if (options.signal?.aborted) throw new DiskError('aborted', 'Comparing was interrupted');
    // A logical volume that cannot be read lies in others, of which nothing is known: it is told by its bytes.
    if (volume.pieces.length === 0) continue;
    for (const { offset, length } of volume.pieces) outside.delete(offset, offset + length);
    // One that has grown, as a seat's does on a larger disk, is still the same.
    const former = old.find(({ offset, logical }) =>
      volume.logical ? logical?.uuid === volume.logical.uuid : !logical && offset === volume.offset,
    );
    gone.delete(former?.logical?.name ?? '');
    volumes.push(await diffVolume(before, after, former, volume, touched, options));
  }
  const rest = [...outside.intervals()].map(({ start, end }) => ({ offset: start, length: end - start }));
  const ranges = await diffRanges(before, after, rest, touched, options);
  if (ranges.length > 0) {
    volumes.push({
      offset: 0,
      length: after.size,
      ranges,
      notes: [
        [...old, ...now].some(({ logical }) => logical)
          ? "outside the partitions and logical volumes: boot code, partition table, LVM's own records"
          : 'outside the partitions: boot code, partition table',
        ...[...gone].map((name) => `the logical volume ${name} is not there any more`),
      ],
    });
  }
  return { before: before.size, after: after.size, volumes };
}

/** Guest bytes that layers above `before` hold; all where it is not in the chain. */
async function touchedBytes(before: Image, after: Image): Promise<IntervalSet> {
  const touched = new IntervalSet();
  const layers: Image[] = [];
  let one: Image | undefined = after;
  for (; one && one !== before; one = one.backing) layers.push(one);
  if (!one) {
    touched.add(0, after.size);
    return touched;
  }
  for (const layer of layers) {
    for await (const page of layer.runs({ depth: 'layer' })) {
      for (const run of page) if (run.kind !== 'hole') touched.add(run.offset, run.offset + run.length);
    }
    // Past the end of what lies beneath, an image reads as zeroes.
    const beneath = layer.backing?.size ?? 0;
    if (beneath < layer.size) touched.add(beneath, layer.size);
  }
  return touched;
}

async function diffVolume(
  before: Image,
  after: Image,
  former: Volume | undefined,
  volume: Volume,
  touched: IntervalSet,
  options: DiffOptions,
): Promise<VolumeDiff> {
  const { offset, length, pieces, partition, logical } = volume;
  const place = { partition: partition?.number, logical: logical?.name, offset, length };
  const notes: string[] = [];
  if (!former && partition) notes.push("the partition was not there before, lay elsewhere, or was LVM's");
  if (!former && logical) notes.push('the logical volume was not there before');
  if (former?.logical && former.logical.name !== logical?.name)
    notes.push(`it was called ${former.logical.name} before`);
  if (former && former.length !== length) notes.push(`it had ${humanSize(former.length)} before`);
  // Elsewhere on the disk it would be other bytes that tell whether it changed.
  const unmoved = former && former.pieces.length > 0 && lieAlike(former.pieces, pieces);
  if (former && !unmoved) notes.push('it lies elsewhere on the disk than before');
  const isTouched = (from: number, to: number) => {
    for (const { offset: at, length: bytes } of placesOf(pieces, from, to - from))
      if (touched.overlaps(at, at + bytes)) return true;
    return !unmoved;
  };
  if (former && !isTouched(0, length)) {
    const same = await systemOf(volume, notes);
    return { ...place, ...named(same), ...(same ? { files: [] } : { ranges: [] }), notes };
  }
  const system = await systemOf(volume, notes);
  const old = former && (await systemOf(former, []));
  if (system && old && (system.kind === 'vfat') === (old.kind === 'vfat')) {
    if (system.needsRecovery) notes.push('it was not unmounted: what waits in its journal is not shown');
    try {
      const files: FileChange[] = [];
      for await (const change of diffTrees(old, system, isTouched)) {
        if (options.signal?.aborted) throw new DiskError('aborted', 'Comparing was interrupted');
        files.push(change);
      }
      return { ...place, ...named(system), files, notes };
    } catch (error) {
      if (!isDiskError(error, 'corrupt') && !isDiskError(error, 'unsupported')) throw error;
      notes.push(`its files cannot be compared: ${error.message}`);
    }
  }
  const ranges =
    former && !unmoved
      ? await diffMoved(former, volume, options)
      : await diffRanges(before, after, pieces, touched, options);
  return { ...place, ...named(system), ranges, notes };
}

/** What differs between volumes whose bytes lie at other places; all of it where the former one cannot be read. */
async function diffMoved(
  former: Volume,
  volume: Volume,
  options: DiffOptions,
): Promise<readonly ByteRange[]> {
  const { length, pieces } = volume;
  if (former.pieces.length === 0) return pieces;
  const all = new IntervalSet();
  all.add(0, length);
  const ranges = await diffRanges(former.bytes, volume.bytes, [{ offset: 0, length }], all, options);
  return ranges.flatMap((range) => [...placesOf(pieces, range.offset, range.length)]);
}

function named(system: FileSystem | undefined): Pick<VolumeDiff, 'fileSystem' | 'label'> {
  return { fileSystem: system?.kind, label: system?.label };
}

/** The volume's file system; a damaged one is a note. */
async function systemOf(volume: Volume, notes: string[]): Promise<FileSystem | undefined> {
  try {
    return await openFileSystem(volume.bytes);
  } catch (error) {
    if (!isDiskError(error, 'corrupt') && !isDiskError(error, 'unsupported')) throw error;
    notes.push(`its file system cannot be read: ${error.message}`);
    return undefined;
  }
}
