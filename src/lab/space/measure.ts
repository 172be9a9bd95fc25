import { lstatSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { IntervalSet } from '../../bytes/intervals.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { asSystemError } from '../../platform/errno.ts';
import { type Space, spaceAt } from '../../platform/file-facts.ts';
import { realPathOf } from '../../platform/host-names.ts';
import { deviceSize } from '../disks/device-disk.ts';
import {
  backingPathOf,
  type ImageHead,
  isBlockDevice,
  nameExists,
  readHeadIfOpen,
} from '../disks/overlay.ts';
import { filesIn, type Lab } from '../lab.ts';
import type { DiskEncryption } from '../seats/seat.ts';
import { keyFor } from '../seats/seat-key.ts';
import { fullBytes } from './worst-case.ts';

/** What the files of one seat take. Bytes. */
export interface SeatSpace {
  /** Undefined for images in the pool that no lab made. */
  readonly lab?: string;
  readonly name: string;
  /** As `ls -l` says. */
  readonly apparent: number;
  /** As `du` says: what nobody else has. */
  readonly own: number;
  /** Guest bytes that it reads from what its disks stand on: a full clone would take them too. */
  readonly shared: number;
  /** What `own` can become: each cluster of each disk written. */
  readonly worst: number;
  /** Its disk is on a block device, which is its own as a whole; `full`: what the disk may come to need of it. */
  readonly device?: { readonly path: string; readonly size: number; readonly full: number };
}

/** An image outside the pool that seats stand on. */
export interface SharedImage {
  readonly path: string;
  readonly apparent: number;
  /** As `du` says. */
  readonly allocated: number;
}

export interface PoolSpace {
  readonly pool: string;
  readonly seats: readonly SeatSpace[];
  readonly masters: readonly SharedImage[];
  readonly totals: Omit<SeatSpace, 'name' | 'lab' | 'device'>;
  /** What all of it may grow by in the pool's file system. */
  readonly growth: number;
  readonly fileSystem: Space;
  /** What could not be looked into, in words. */
  readonly warnings: readonly string[];
}

/** Measures the images in a pool (seats may run meanwhile), those of one lab or all. Throws `not-found`. */
export async function measurePool(pool: string, lab?: Pick<Lab, 'name' | 'seats'>): Promise<PoolSpace> {
  const disks = [...(lab?.seats.values() ?? [])].flatMap((seat) => [seat.disk, ...(seat.disks ?? [])]);
  const keys = new Map(disks.map(({ path, encryption }) => [path, encryption]));
  if (!nameExists(pool)) {
    const detail = { fix: "'cowherd up' makes it" };
    throw new DiskError('not-found', `There is no pool '${pool}'`, { path: pool, detail });
  }
  const fileSystem = spaceAt(pool);
  const seats = new Map<string, SeatSpace>();
  const masters = new Map<string, IntervalSet | undefined>();
  const warnings: string[] = [];
  for (const file of measuredIn(pool)) {
    const path = join(pool, file);
    const image = file.endsWith('.qcow2') ? readHeadIfOpen(path) : undefined;
    const owner = ownerOf(file, image, seats);
    if (!owner || (lab !== undefined && owner.lab !== lab.name)) continue;
    const key = `${owner.lab ?? ''}/${owner.name}`;
    const before = seats.get(key) ?? { ...owner, apparent: 0, own: 0, shared: 0, worst: 0 };
    const size = image && deviceSize(path);
    const { apparent, allocated } = image && size === undefined ? image : sizesOf(path);
    let shared = 0;
    try {
      if (image) shared = await sharedBytes(image, masters, keys.get(path));
    } catch (error) {
      if (!isDiskError(error)) throw error;
      warnings.push(`${file}: what it shares is not known: ${error.message}`);
    }
    const full = image?.size === undefined ? 0 : await fullBytes(image.size);
    seats.set(key, {
      ...before,
      ...(size === undefined ? {} : { device: { path: realPathOf(path), size, full } }),
      apparent: before.apparent + apparent,
      own: before.own + allocated,
      shared: before.shared + shared,
      worst: before.worst + Math.max(size === undefined ? full : 0, allocated),
    });
  }
  const all = [...seats.values()];
  const sum = (pick: (seat: SeatSpace) => number) => all.reduce((total, seat) => total + pick(seat), 0);
  const totals = {
    apparent: sum((one) => one.apparent),
    own: sum((one) => one.own),
    shared: sum((one) => one.shared),
    worst: sum((one) => one.worst),
  };
  const growth = sum((one) => Math.max(0, one.worst - one.own));
  const known = [...masters.keys()].map((path) => ({ path, ...sizesOf(path) }));
  return { pool, seats: all, masters: known, totals, growth, fileSystem, warnings };
}

/** Names in the order that puts a seat's disk before its other files. */
function measuredIn(pool: string): readonly string[] {
  const order = new Intl.Collator('en', { numeric: true });
  return [...filesIn(pool)]
    .filter((name) => !name.startsWith('.') && takesSpace(join(pool, name)))
    .sort((a, b) => Number(b.endsWith('.qcow2')) - Number(a.endsWith('.qcow2')) || order.compare(a, b));
}

/** Files, and links to block devices, as the disk of a seat on one is. */
function takesSpace(path: string): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  return stat?.isFile() || (stat?.isSymbolicLink() && isBlockDevice(path)) || false;
}

function ownerOf(
  file: string,
  image: ImageHead | undefined,
  seats: ReadonlyMap<string, SeatSpace>,
): Pick<SeatSpace, 'lab' | 'name'> | undefined {
  if (image?.provenance) return { lab: image.provenance.lab, name: image.provenance.seat };
  if (image) return { name: file };
  const seat = /^(.+?)(?:\.seed)?\.(?:xml|log|iso)$/.exec(file)?.[1];
  return [...seats.values()].find((one) => one.name === seat && one.lab !== undefined);
}

function sizesOf(path: string): { readonly apparent: number; readonly allocated: number } {
  try {
    const { size, blocks } = statSync(path);
    const device = deviceSize(path);
    return device === undefined
      ? { apparent: size, allocated: blocks * 512 }
      : { apparent: device, allocated: device };
  } catch (cause) {
    throw asSystemError(cause, 'look at', path);
  }
}

/** Guest bytes that an image reads from what it stands on, by its own map and that of its backing chain. */
async function sharedBytes(
  head: ImageHead,
  masters: Map<string, IntervalSet | undefined>,
  encryption: DiskEncryption | undefined,
): Promise<number> {
  const backing = backingPathOf(head);
  if (backing === undefined) return 0;
  if (!masters.has(backing)) {
    masters.set(backing, undefined);
    const format = head.backing?.format;
    await using image = await openImageFile(backing, { format, policy: trustedImages, locks: 'share' });
    masters.set(backing, await storedBytes(image, 'chain'));
  }
  const beneath = masters.get(backing);
  if (!beneath) throw new DiskError('not-found', `'${backing}' cannot be read`, { path: backing });
  await using image = await openImageFile(head.path, {
    format: 'qcow2',
    backing: 'ignore',
    locks: 'share',
    ...keyFor(encryption),
  });
  let shared = 0;
  for await (const page of image.runs({ depth: 'layer' })) {
    for (const { kind, offset, length } of page) {
      if (kind !== 'hole') continue;
      for (const { start, end } of beneath.intervals(offset, offset + length))
        shared += Math.min(end, offset + length) - Math.max(start, offset);
    }
  }
  return shared;
}

/** Guest bytes that an image holds, zeroes aside. */
export async function storedBytes(image: Image, depth: 'chain' | 'layer'): Promise<IntervalSet> {
  const stored = new IntervalSet();
  for await (const page of image.runs({ depth })) {
    for (const { kind, offset, length } of page)
      if (kind === 'data' || kind === 'packed') stored.add(offset, offset + length);
  }
  return stored;
}
