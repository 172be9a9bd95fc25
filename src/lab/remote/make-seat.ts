import { randomUUID } from 'node:crypto';
import { DiskError, isDiskError } from '../../errors.ts';
import { encodeDeviceMark } from '../device-mark.ts';
import { overlayEncoder } from '../make-overlays.ts';
import type { SparseContent } from '../place-files.ts';
import type { Seat } from '../seat.ts';
import { encodeExtraDisk, seedEncoder } from '../seat-extras.ts';
import type { RemoteHost } from './host.ts';
import type { RemoteLab, RemoteMaster } from './lab.ts';
import { names } from './records.ts';
import {
  assertOwnSeed,
  assertReplaceable,
  atWork,
  diskPlace,
  placeOf,
  removeLeftover,
  seedPlace,
} from './seat-files.ts';

/** Makes the files of seats on hosts, and keeps what is there and was not asked to be made anew. */
export interface SeatMaker {
  /** Whether a seat whose disk is there lacks another one, or a seed as the lab file has it. Throws `exists` for files of others. */
  lacks(remote: RemoteHost, seat: string): Promise<boolean>;
  /** Makes those. */
  complete(remote: RemoteHost, seat: string): Promise<void>;
  /** Makes a seat whose disk is missing or cut off. Throws `exists` where a disk is there by now. */
  create(remote: RemoteHost, seat: string): Promise<void>;
  /** Makes a seat's disks empty and its seed that of another instance, whatever was there of this seat. */
  renew(remote: RemoteHost, seat: string): Promise<void>;
}

/**
 * The maker of seats of a lab. A seat's disk is made last, since it is what a seat is known to be made by. Every file is looked at
 * right before it goes, and made so that one that is there by then is an error: another machine may be at work on the same lab.
 */
export function seatMaker(lab: RemoteLab, master: RemoteMaster, seats: ReadonlyMap<string, Seat>): SeatMaker {
  const { spec } = lab;
  const listed = new Map(
    spec.seats.flatMap((name) => (seats.has(name) ? [[name, seats.get(name)!] as const] : [])),
  );
  const seed = seedEncoder({ name: spec.name, spec, seats: listed });
  const overlays = new Map<string, ReturnType<typeof overlayEncoder>>();
  const ownerOf = (seat: string) => ({ lab: spec.name, seat });

  function overlayOf({ pool }: RemoteHost): ReturnType<typeof overlayEncoder> {
    const known = overlays.get(pool.path);
    if (known) return known;
    const overlay = overlayEncoder({
      lab: spec.name,
      pool: pool.path,
      master: { ...master, path: `${pool.path}/${lab.copyName(master)}`, here: master.here?.path },
      size: spec.disk.size ?? master.size,
      guest: spec.guest,
    });
    overlays.set(pool.path, overlay);
    return overlay;
  }

  async function put(
    { pool }: RemoteHost,
    seat: string,
    name: string,
    content: Uint8Array | SparseContent,
  ): Promise<void> {
    try {
      await pool.put(name, content, { mark: encodeDeviceMark(ownerOf(seat)) });
    } catch (error) {
      throw isDiskError(error, 'exists') ? atWork(`${pool.path}/${name}`) : error;
    }
  }

  /** The extra disks and the seed that are not there, or not as they should be. */
  async function* lacking(
    remote: RemoteHost,
    seat: string,
    instance?: string,
  ): AsyncGenerator<() => Promise<void>> {
    const { pool } = remote;
    for (const { name, size } of spec.disks) {
      const file = names.extra(seat, name);
      const place = await placeOf(pool, file, ownerOf(seat));
      assertReplaceable(place, spec.name, seat);
      if (place !== 'missing' && place !== 'cut off') continue;
      yield async () => {
        if (place === 'cut off') await removeLeftover(pool, file);
        await put(remote, seat, file, await encodeExtraDisk(spec.name, seat, size));
      };
    }
    if (!seed) return;
    const file = names.seed(seat);
    const place = await seedPlace(remote, ownerOf(seat));
    assertOwnSeed(remote, place, ownerOf(seat));
    const before = place === 'missing' || place === 'cut off' ? undefined : place;
    const bytes = seed(seat, instance ?? before?.mark?.instance ?? `iid-${randomUUID()}`);
    if (before && Buffer.compare(before.bytes, bytes) === 0) return;
    yield async () => {
      if (place === 'cut off') await removeLeftover(pool, file);
      else if (place !== 'missing') await pool.remove(file);
      await put(remote, seat, file, bytes);
    };
  }

  async function complete(remote: RemoteHost, seat: string, instance?: string): Promise<void> {
    for await (const make of lacking(remote, seat, instance)) await make();
  }

  return {
    async lacks(remote, seat) {
      for await (const _ of lacking(remote, seat)) return true;
      return false;
    },
    complete: (remote, seat) => complete(remote, seat),
    async create(remote, seat) {
      // Made before anything is removed: what cannot be encoded costs nobody a disk.
      const disk = await overlayOf(remote)(seat);
      const place = await diskPlace(remote, spec.name, seat);
      if (place !== 'missing' && place !== 'cut off') throw madeMeanwhile(seat, place.path);
      if (place === 'cut off') await removeLeftover(remote.pool, names.disk(seat));
      await complete(remote, seat, `iid-${randomUUID()}`);
      await put(remote, seat, names.disk(seat), disk);
    },
    async renew(remote, seat) {
      const { pool } = remote;
      const disk = await overlayOf(remote)(seat);
      // A seat is known by its own disk: were that the first to go, who comes after a kill would keep the others.
      const disks = [...spec.disks.map(({ name }) => names.extra(seat, name)), names.disk(seat)];
      const look = async (file: string) => {
        const place = await placeOf(pool, file, ownerOf(seat));
        assertReplaceable(place, spec.name, seat);
        return place;
      };
      for (const file of disks) await look(file);
      if (seed) assertOwnSeed(remote, await seedPlace(remote, ownerOf(seat)), ownerOf(seat));
      for (const file of disks) {
        // Once more, right before.
        if ((await look(file)) === 'cut off') await removeLeftover(pool, file);
        else await pool.remove(file);
      }
      await complete(remote, seat, `iid-${randomUUID()}`);
      await put(remote, seat, names.disk(seat), disk);
    },
  };
}

function madeMeanwhile(seat: string, path: string): DiskError {
  return new DiskError('exists', `${seat}: a disk was put at '${path}' meanwhile`, {
    path,
    detail: { fix: "look at it with 'cowherd status', and run this again" },
  });
}
