import { randomUUID } from 'node:crypto';
import { DiskError } from '../../errors.ts';
import { overlayEncoder } from '../make-overlays.ts';
import { type ImageHead, imageHead } from '../overlay.ts';
import { foreignDisk, isOurs } from '../plan.ts';
import type { Seat } from '../seat.ts';
import { encodeExtraDisk, seedEncoder } from '../seat-extras.ts';
import type { RemoteHost } from './host.ts';
import { type HostPool, headBytes } from './host-pool.ts';
import type { RemoteLab, RemoteMaster } from './lab.ts';
import { names } from './records.ts';

/** What is asked of a host's folder here. */
export interface SeatFolder {
  readonly pool: Pick<HostPool, 'path' | 'read' | 'facts' | 'remove'>;
}

/** What is in the place of a seat's disk. 'cut off': a disk that was being made, without its header yet. */
export type DiskPlace = ImageHead | 'missing' | 'cut off';

/** Looks at the header of a seat's disk on its host. */
export function diskPlace({ pool }: SeatFolder, seat: string): Promise<DiskPlace> {
  return placeOf(pool, names.disk(seat));
}

async function placeOf(pool: SeatFolder['pool'], name: string): Promise<DiskPlace> {
  const bytes = await pool.read(name, headBytes);
  if (bytes === undefined) return 'missing';
  // Heads are written last, and libvirt gives a new file its whole size first.
  if (bytes.every((byte) => byte === 0)) return 'cut off';
  const facts = await pool.facts(name);
  return imageHead(`${pool.path}/${name}`, bytes, {
    apparent: facts?.size ?? 0,
    allocated: facts?.allocated ?? 0,
  });
}

/** Throws `exists` where a seat's disk is there and not one that this lab made. */
export function assertReplaceable(place: DiskPlace, lab: string, seat: string): void {
  if (place === 'missing' || place === 'cut off' || isOurs(place, lab, seat)) return;
  throw new DiskError('exists', `${seat}: ${foreignDisk(place)}: '${place.path}'`, {
    path: place.path,
    detail: { fix: 'move it away; only disks of the lab itself are replaced' },
  });
}

/** Makes all files of seats on hosts: the disk last, since it is what a seat is known to be made by. */
export function seatMaker(
  lab: RemoteLab,
  master: RemoteMaster,
  seats: ReadonlyMap<string, Seat>,
): (host: RemoteHost, seat: string) => Promise<void> {
  const { spec } = lab;
  const listed = new Map(
    spec.seats.flatMap((name) => (seats.has(name) ? [[name, seats.get(name)!] as const] : [])),
  );
  const seed = seedEncoder({ name: spec.name, spec, seats: listed });
  const file = lab.copyName(master);
  const overlays = new Map<string, ReturnType<typeof overlayEncoder>>();
  return async ({ pool }, seat) => {
    const overlay =
      overlays.get(pool.path) ??
      overlayEncoder({
        lab: spec.name,
        pool: pool.path,
        master: { ...master, path: `${pool.path}/${file}`, here: master.here?.path },
        size: spec.disk.size ?? master.size,
        guest: spec.guest,
      });
    overlays.set(pool.path, overlay);
    // Made before anything is removed: what cannot be encoded costs nobody a disk.
    const disk = await overlay(seat);
    for (const { name } of spec.disks)
      assertReplaceable(await placeOf(pool, names.extra(seat, name)), spec.name, seat);
    await pool.remove(names.disk(seat));
    for (const { name, size } of spec.disks) {
      await pool.remove(names.extra(seat, name));
      await pool.put(names.extra(seat, name), await encodeExtraDisk(spec.name, seat, size));
    }
    await pool.remove(names.seed(seat));
    if (seed) await pool.put(names.seed(seat), seed(seat, `iid-${randomUUID()}`));
    await pool.put(names.disk(seat), disk);
  };
}

/** Removes a seat's files: the disk, its log and its seed, and extra disks that are the seat's own. */
export async function removeSeatFiles(
  { pool }: SeatFolder,
  files: ReadonlySet<string>,
  lab: string,
  seat: string,
): Promise<readonly string[]> {
  const own: string[] = [];
  for (const file of files) {
    if ([names.disk(seat), names.seed(seat), names.log(seat)].includes(file)) own.push(file);
    else if (file.startsWith(`${seat}+`) && file.endsWith('.qcow2')) {
      // A master may be called as a seat is: then a copy of it looks like an extra disk.
      const place = await placeOf(pool, file);
      if (place === 'cut off' ? !names.isCopy(file) : place !== 'missing' && isOurs(place, lab, seat))
        own.push(file);
    }
  }
  for (const file of own) await pool.remove(file);
  return own;
}
