import { DiskError, isDiskError } from '../errors.ts';
import type { ByteRange } from './file-system.ts';
import { type LogicalVolume, readLogicalVolumes } from './lvm/logical-volumes.ts';
import { hasFileSystem } from './open.ts';
import { type Partition, readPartitions } from './partitions.ts';
import { joined } from './pieces.ts';
import { type ByteSource, errorAbout, nameOf, windowOf } from './source.ts';

/** A part of a disk that may hold a file system. */
export interface Volume {
  /** A partition; undefined for the whole disk, which has none, and for a logical volume. */
  readonly partition?: Partition;
  /** One of LVM's. */
  readonly logical?: LogicalVolume;
  /** Of a logical volume: the physical one that it lies in. */
  readonly physical?: Pick<Volume, 'partition' | 'offset' | 'length' | 'bytes'>;
  /** Where it begins within the disk, in bytes; of a logical volume that cannot be read what it lies in. */
  readonly offset: number;
  readonly length: number;
  /** Where its bytes lie within the disk, in order; none where nobody can tell. */
  readonly pieces: readonly ByteRange[];
  /** Throws `unsupported` or `corrupt` where it cannot be read. */
  readonly bytes: ByteSource;
}

/** LVM's physical volumes on one disk that are looked into; more are left as plain partitions, which their label keeps from being changed. */
const mostPhysical = 16;

/**
 * The partitions of a disk but for extended ones, or the disk itself where it has none; in place of one that is LVM's, its logical volumes
 * (what else of it there is, is LVM's own).
 */
export async function volumesOf(disk: ByteSource): Promise<readonly Volume[]> {
  const { partitions } = await readPartitions(disk);
  const places =
    partitions.length === 0
      ? [{ partition: undefined, offset: 0, length: disk.size }]
      : partitions
          .filter(({ type }) => !['5', 'f', '85'].includes(type))
          .map((partition) => ({ partition, offset: partition.offset, length: partition.length }));
  const volumes: Volume[] = [];
  let physical = 0;
  for (const place of places) {
    const bytes = windowOf(disk, place.offset, place.length);
    const plain = { ...place, pieces: [{ offset: place.offset, length: place.length }], bytes };
    try {
      // Who makes a file system over LVM may leave its label; who makes LVM over a file system wipes that.
      const isOther = physical >= mostPhysical || (await hasFileSystem(bytes));
      const logical = isOther ? undefined : await readLogicalVolumes(bytes);
      if (logical) physical += 1;
      if (logical?.length) volumes.push(...logical.map((one) => logicalVolume(disk, plain, one)));
      else volumes.push(plain);
    } catch (error) {
      if (!isDiskError(error, 'corrupt') && !isDiskError(error, 'unsupported')) throw errorAbout(disk, error);
      physical += 1;
      volumes.push({ ...plain, bytes: failing(plain.bytes, errorAbout(disk, error)) });
    }
  }
  return withoutDoubles(volumes);
}

/** Each physical volume of a group names all its logical ones: of those, the one that is read here counts. */
function withoutDoubles(volumes: readonly Volume[]): readonly Volume[] {
  const read = new Set(
    volumes.flatMap(({ logical, pieces }) => (logical && pieces.length > 0 ? [logical.uuid] : [])),
  );
  const seen = new Set<string>();
  return volumes.filter(({ logical, pieces }) => {
    if (!logical || pieces.length > 0) return true;
    if (read.has(logical.uuid) || seen.has(logical.uuid)) return false;
    seen.add(logical.uuid);
    return true;
  });
}

function logicalVolume(
  disk: ByteSource,
  physical: NonNullable<Volume['physical']>,
  logical: LogicalVolume,
): Volume {
  const start = physical.offset;
  const { length, unreadable } = logical;
  const pieces = logical.pieces.map((piece) => ({ ...piece, offset: start + piece.offset }));
  const bytes =
    unreadable === undefined
      ? joined(disk, pieces)
      : failing(
          { ...physical.bytes, size: length },
          new DiskError('unsupported', unreadable, { path: logical.name }),
        );
  return { logical, physical, offset: pieces[0]?.offset ?? start, length, pieces, bytes };
}

function failing(source: ByteSource, error: unknown): ByteSource {
  return { size: source.size, name: nameOf(source), read: () => Promise.reject(error) };
}

/** What to call it in a sentence. */
export function volumeName({ partition, logical }: Pick<Volume, 'partition' | 'logical'>): string {
  return nameInWords(partition?.number, logical?.name);
}

/** The same, of a partition's number or a logical volume's name, where there is either. */
export function nameInWords(partition: number | undefined, logical: string | undefined): string {
  if (logical !== undefined) return `the logical volume ${logical}`;
  return partition === undefined ? 'the disk' : `partition ${partition}`;
}
