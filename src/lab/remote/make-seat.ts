import { randomUUID } from 'node:crypto';
import { DiskError, isDiskError } from '../../errors.ts';
import { encodeDeviceMark } from '../disks/device-mark.ts';
import { overlayEncoder } from '../disks/make-overlays.ts';
import type { SparseContent } from '../disks/place-files.ts';
import type { Seat } from '../seats/seat.ts';
import { encodeExtraDisk, seedEncoder } from '../seats/seat-extras.ts';
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

/**
 * Makes the files of a lab's seats on hosts, and keeps what is there and was not asked to be made anew. A seat's disk is made last, since it is
 * what a seat is known to be made by. Every file is looked at right before it goes, and made so that one that is there by then is an error:
 * another machine may be at work on the same lab.
 */
export class SeatMaker {
  readonly #lab: RemoteLab;
  readonly #master: RemoteMaster;
  readonly #seed: ReturnType<typeof seedEncoder>;
  /** By the folders of hosts. */
  readonly #overlays = new Map<string, ReturnType<typeof overlayEncoder>>();

  constructor(lab: RemoteLab, master: RemoteMaster, seats: ReadonlyMap<string, Seat>) {
    const { spec } = lab;
    const listed = new Map(
      spec.seats.flatMap((name) => (seats.has(name) ? [[name, seats.get(name)!] as const] : [])),
    );
    this.#lab = lab;
    this.#master = master;
    this.#seed = seedEncoder({ name: spec.name, spec, seats: listed });
  }

  /** Whether a seat whose disk is there lacks another one, or a seed as the lab file has it. Throws `exists` for files of others. */
  async lacks(remote: RemoteHost, seat: string): Promise<boolean> {
    for await (const _ of this.#lacking(remote, seat)) return true;
    return false;
  }

  /** Makes those. */
  async complete(remote: RemoteHost, seat: string): Promise<void> {
    await this.#complete(remote, seat);
  }

  /** Makes a seat whose disk is missing or cut off. Throws `exists` where a disk is there by now. */
  async create(remote: RemoteHost, seat: string): Promise<void> {
    // Made before anything is removed: what cannot be encoded costs nobody a disk.
    const disk = await this.#overlayOf(remote)(seat);
    const place = await diskPlace(remote, this.#lab.spec.name, seat);
    if (place !== 'missing' && place !== 'cut off') throw madeMeanwhile(seat, place.path);
    if (place === 'cut off') await removeLeftover(remote.pool, names.disk(seat));
    await this.#complete(remote, seat, `iid-${randomUUID()}`);
    await this.#put(remote, seat, names.disk(seat), disk);
  }

  /** Makes a seat's disks empty and its seed that of another instance, whatever was there of this seat. */
  async renew(remote: RemoteHost, seat: string): Promise<void> {
    const { pool } = remote;
    const { spec } = this.#lab;
    const disk = await this.#overlayOf(remote)(seat);
    // A seat is known by its own disk: were that the first to go, who comes after a kill would keep the others.
    const disks = [...spec.disks.map(({ name }) => names.extra(seat, name)), names.disk(seat)];
    for (const file of disks) await this.#replaceable(remote, seat, file);
    const owner = this.#ownerOf(seat);
    if (this.#seed) assertOwnSeed(remote, await seedPlace(remote, owner), owner);
    for (const file of disks) {
      // Once more, right before.
      if ((await this.#replaceable(remote, seat, file)) === 'cut off') await removeLeftover(pool, file);
      else await pool.remove(file);
    }
    await this.#complete(remote, seat, `iid-${randomUUID()}`);
    await this.#put(remote, seat, names.disk(seat), disk);
  }

  async #complete(remote: RemoteHost, seat: string, instance?: string): Promise<void> {
    for await (const make of this.#lacking(remote, seat, instance)) await make();
  }

  /** The extra disks and the seed that are not there, or not as they should be. */
  async *#lacking(remote: RemoteHost, seat: string, instance?: string): AsyncGenerator<() => Promise<void>> {
    const { spec } = this.#lab;
    for (const { name, size } of spec.disks) {
      const file = names.extra(seat, name);
      const place = await this.#replaceable(remote, seat, file);
      if (place !== 'missing' && place !== 'cut off') continue;
      yield async () => {
        if (place === 'cut off') await removeLeftover(remote.pool, file);
        await this.#put(remote, seat, file, await encodeExtraDisk(spec.name, seat, size));
      };
    }
    const seed = await this.#lackingSeed(remote, seat, instance);
    if (seed) yield seed;
  }

  async #lackingSeed(
    remote: RemoteHost,
    seat: string,
    instance?: string,
  ): Promise<(() => Promise<void>) | undefined> {
    if (!this.#seed) return undefined;
    const file = names.seed(seat);
    const owner = this.#ownerOf(seat);
    const place = await seedPlace(remote, owner);
    assertOwnSeed(remote, place, owner);
    const before = place === 'missing' || place === 'cut off' ? undefined : place;
    const bytes = this.#seed(seat, instance ?? before?.mark?.instance ?? `iid-${randomUUID()}`);
    if (before && Buffer.compare(before.bytes, bytes) === 0) return undefined;
    return async () => {
      if (place === 'cut off') await removeLeftover(remote.pool, file);
      else if (place !== 'missing') await remote.pool.remove(file);
      await this.#put(remote, seat, file, bytes);
    };
  }

  /** What is in the place of a seat's file. Throws `exists` where that is not the seat's. */
  async #replaceable({ pool }: RemoteHost, seat: string, file: string) {
    const place = await placeOf(pool, file, this.#ownerOf(seat));
    assertReplaceable(place, this.#lab.spec.name, seat);
    return place;
  }

  #ownerOf(seat: string) {
    return { lab: this.#lab.spec.name, seat };
  }

  #overlayOf({ pool }: RemoteHost): ReturnType<typeof overlayEncoder> {
    const known = this.#overlays.get(pool.path);
    if (known) return known;
    const { spec } = this.#lab;
    const master = this.#master;
    const overlay = overlayEncoder({
      lab: spec.name,
      pool: pool.path,
      master: { ...master, path: `${pool.path}/${this.#lab.copyName(master)}`, here: master.here?.path },
      size: spec.disk.size ?? master.size,
      guest: spec.guest,
    });
    this.#overlays.set(pool.path, overlay);
    return overlay;
  }

  async #put(
    { pool }: RemoteHost,
    seat: string,
    name: string,
    content: Uint8Array | SparseContent,
  ): Promise<void> {
    try {
      await pool.put(name, content, { mark: encodeDeviceMark(this.#ownerOf(seat)) });
    } catch (error) {
      throw isDiskError(error, 'exists') ? atWork(`${pool.path}/${name}`) : error;
    }
  }
}

function madeMeanwhile(seat: string, path: string): DiskError {
  return new DiskError('exists', `${seat}: a disk was put at '${path}' meanwhile`, {
    path,
    detail: { fix: "look at it with 'cowherd status', and run this again" },
  });
}
