import { randomUUID } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import { ExtensionType } from '../../formats/qcow2/constants.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { readSmallText } from '../../platform/json-file.ts';
import { removeFiles } from '../disks/hold-disks.ts';
import { encodeProvenance, type ImageHead, nameExists, readImageHead } from '../disks/overlay.ts';
import { type FileJob, type PlaceOptions, placeFiles } from '../disks/place-files.ts';
import { extraDiskPath, filesIn, type Lab, seatPaths } from '../lab.ts';
import { foreignDisk, isOurs, type Problem, type Step } from '../plan.ts';
import { encodeSeed, type SeedMark, seedMark } from '../seed/nocloud.ts';
import { extraDiskOf, seatOfExtraDisk } from './extra-disk-name.ts';
import type { DiskEncryption, Seat } from './seat.ts';
import { diskModeOf, encodeSeatImage, newEncryption, privateModeOf } from './seat-image.ts';

/*
 * What a seat has besides its disk: a seed image, and disks that are empty at first. Each says itself whose it is.
 */

/** A seed of more than this many bytes is somebody else's image. */
export const largestSeed = 16 * 1024 * 1024;
const largestUserData = 1024 * 1024;

/** What `up` has to do for them. */
export function planExtras(lab: Lab): {
  readonly steps: readonly Step[];
  readonly problems: readonly Problem[];
  readonly notes: readonly string[];
} {
  const steps: Step[] = [];
  const problems: Problem[] = [];
  const notes: string[] = [];
  const foreign = (seat: string, path: string, what: string) =>
    problems.push({ seat, path, what, fix: 'move it away, or call the seat otherwise' });
  const encode = seedEncoder(lab);
  for (const seat of lab.seats.keys()) {
    if (encode) {
      const path = seatPaths(lab.pool, seat).seed;
      const found = readSeedIfLet(path);
      // In use: libvirt has made QEMU's user its owner.
      if (found === 'denied') continue;
      if (found === undefined) steps.push({ do: 'seed', seat, path, change: 'new' });
      else if (!isSeedOf(found.mark, lab, seat))
        foreign(seat, path, 'a file that Cowherd did not make is in the place of its seed');
      else if (!sameBytes(found.bytes, encode(seat, found.mark.instance)))
        steps.push({ do: 'seed', seat, path, change: 'rewrite' });
    }
    for (const { name, size } of lab.spec.disks) {
      const path = extraDiskPath(lab.pool, seat, name);
      const head = readImageHead(path);
      if (head === undefined) steps.push({ do: 'add', seat, path, disk: name, size });
      else if (!isExtra(head, lab.name, seat)) foreign(seat, path, foreignExtra(head, lab.name, seat));
      else if (head.size! < size) steps.push({ do: 'grow', seat, path, from: head.size!, to: size });
      else if (head.size! > size) {
        notes.push(
          `${seat}: its disk "${name}" has ${head.size} bytes, more than the lab file's ${size}; 'cowherd reset' makes it new`,
        );
      }
    }
  }
  return { steps, problems, notes };
}

/** Throws `exists` where a file that is not the seats' own lies in the place of one of their extra disks or seeds. */
export function assertOwnExtras(lab: Lab, seats: readonly string[]): void {
  const fix = 'move it away; only disks of the lab itself are thrown away';
  for (const seat of seats) {
    assertOwnExtraDisks(lab, seat, fix);
    if (lab.spec.seed === undefined) continue;
    const path = seatPaths(lab.pool, seat).seed;
    const seed = readSeed(path);
    if (seed && !isSeedOf(seed.mark, lab, seat))
      throw notOwn(seat, path, 'a file that Cowherd did not make is in the place of its seed', fix);
  }
}

/** Throws `exists`, with what to do, where an image that is not the seat's own lies in the place of one of its extra disks. */
export function assertOwnExtraDisks(lab: Lab, seat: string, fix: string): void {
  for (const path of extraDisksOf(lab, seat)) {
    const head = readImageHead(path);
    if (head && !isExtra(head, lab.name, seat))
      throw notOwn(seat, path, foreignExtra(head, lab.name, seat), fix);
  }
}

function notOwn(seat: string, path: string, what: string, fix: string): DiskError {
  return new DiskError('exists', `${seat}: ${what}: '${path}'`, { path, detail: { fix } });
}

/** What an extra disk's header says of its master: it has none. Saved work of the seat says which one. */
const noMaster = 'none';

function isExtra(head: ImageHead, lab: string, seat: string): boolean {
  return isOurs(head, lab, seat) && head.provenance!.master === noMaster;
}

function foreignExtra(head: ImageHead, lab: string, seat: string): string {
  return isOurs(head, lab, seat)
    ? `saved work of ${seat} is in the place of its extra disk`
    : foreignDisk(head);
}

/** Why a file under the name of a seat's stays where the seat goes, for people. */
export function whyKept(path: string, lab: string): string {
  const owner = readImageHead(path)?.provenance?.lab;
  return owner === lab ? 'holds saved work and stays' : 'was not made by this lab and stays';
}

/** Where the extra disks are that the lab file gives a seat. */
export function extraDisksOf(lab: Lab, seat: string): readonly string[] {
  return lab.spec.disks.map(({ name }) => extraDiskPath(lab.pool, seat, name));
}

export interface MakeExtrasOptions extends Omit<PlaceOptions, 'replace'> {
  /** Seats whose disk is new: their seed gets another instance-id. */
  readonly renewed: ReadonlySet<string>;
}

/** Makes what `steps` ask for. A seed that is written again stays the same instance, unless the disk is new. */
export async function makeExtras(
  lab: Lab,
  steps: readonly Step[],
  options: MakeExtrasOptions,
): Promise<void> {
  const encode = seedEncoder(lab);
  const stale = encode ? [...options.renewed] : [];
  const seeds = new Set([...stale, ...steps.flatMap((step) => (step.do === 'seed' ? [step.seat] : []))]);
  const jobs: FileJob[] = [...seeds].map((seat) => {
    const path = seatPaths(lab.pool, seat).seed;
    const before = options.renewed.has(seat) ? undefined : readSeed(path)?.mark?.instance;
    // It may hold passwords.
    return { path, mode: privateModeOf(lab), content: () => encode!(seat, before ?? `iid-${randomUUID()}`) };
  });
  // Another instance's seed is given up with its disk. The same instance's stays until its successor is there: with it would go its id.
  const makeRoom = stale.length === jobs.length ? removeFiles : undefined;
  await placeFiles(jobs, { ...options, replace: true, makeRoom });
  const disks = steps.flatMap((step) =>
    step.do === 'add' ? [diskJob(lab, step.seat, step.path, step.size)] : [],
  );
  await placeFiles(disks, { ...options, replace: false });
}

/** Makes the extra disks of seats empty again, and their seeds those of another instance. */
export async function renewExtras(
  lab: Lab,
  seats: readonly string[],
  options: Omit<PlaceOptions, 'replace'>,
): Promise<void> {
  const disks = seats.flatMap((seat) =>
    lab.spec.disks.map(({ name, size }) => diskJob(lab, seat, extraDiskPath(lab.pool, seat, name), size)),
  );
  await placeFiles(disks, { ...options, replace: true });
  await makeExtras(lab, [], { renewed: new Set(seats), signal: options.signal });
}

/** The extra files of every seat that are in the pool, those that the lab file does not ask for any more too. */
export function extraFiles(lab: Lab): ReadonlyMap<string, readonly { path: string; ours: boolean }[]> {
  const found = new Map<string, { path: string; ours: boolean }[]>();
  for (const file of [...filesIn(lab.pool)].sort()) {
    const seat = seatOfExtraDisk(file) ?? /^([^.].*)\.seed\.iso$/.exec(file)?.[1];
    if (seat === undefined || !(lab.seats.has(seat) || lab.unlisted.has(seat))) continue;
    const path = join(lab.pool, file);
    const head = file.endsWith('.qcow2') ? readImageHead(path) : undefined;
    const ours = head ? isExtra(head, lab.name, seat) : isSeedOf(readSeed(path)?.mark, lab, seat);
    found.set(seat, [...(found.get(seat) ?? []), { path, ours }]);
  }
  return found;
}

/** An extra disk of a seat that the lab file does not give it any more, and that was kept. */
export interface LeftDisk {
  readonly seat: string;
  /** The disk's name, as the lab file had it. */
  readonly disk: string;
  readonly path: string;
  /** Bytes, as `du` says. */
  readonly allocated: number;
}

/** Extra disks of listed seats that were made for an earlier lab file: nothing removes them before the seat itself goes. */
export function leftDisks(lab: Lab): readonly LeftDisk[] {
  const wanted = new Set(lab.spec.disks.map(({ name }) => name));
  return [...filesIn(lab.pool)].sort().flatMap((file) => {
    const seat = seatOfExtraDisk(file);
    if (seat === undefined || !lab.seats.has(seat) || wanted.has(extraDiskOf(file))) return [];
    const path = join(lab.pool, file);
    const head = readImageHead(path);
    if (!head || !isExtra(head, lab.name, seat)) return [];
    return [{ seat, disk: extraDiskOf(file), path, allocated: head.allocated }];
  });
}

/** Steps that remove a seat name all of its files: its extra disks, its seed and the log of its console too. */
export function withExtraFiles(lab: Lab, steps: readonly Step[]): readonly Step[] {
  if (!steps.some((step) => step.do === 'remove')) return steps;
  const extras = extraFiles(lab);
  return steps.map((step) => {
    if (step.do !== 'remove') return step;
    const own = (extras.get(step.seat) ?? []).flatMap(({ path, ours }) => (ours ? [path] : []));
    const { log } = seatPaths(lab.pool, step.seat);
    return { ...step, paths: [...step.paths, ...own, ...(nameExists(log) ? [log] : [])] };
  });
}

/** What a seat's seed image holds; undefined where the lab has none. Blames the lab file for what cannot be. */
export function seedEncoder(
  lab: Pick<Lab, 'name' | 'spec' | 'seats'>,
): ((seat: string, instance: string) => Uint8Array) | undefined {
  const { seed: spec } = lab.spec;
  if (spec === undefined) return undefined;
  const file = spec['user-data'];
  const extra = file === undefined ? undefined : readSmallText(file, largestUserData);
  if (file !== undefined && extra === undefined) {
    throw lab.spec.mistake(
      ['seed', 'user-data'],
      `there is no file '${file}'`,
      'paths are relative to the lab file',
    );
  }
  const order = new Map([...lab.seats.keys()].map((name, index) => [name, index]));
  return (name, instance) => {
    const { uuid, mac }: Seat = lab.seats.get(name)!;
    try {
      return encodeSeed(
        { lab: lab.name, name, uuid, mac, index: order.get(name)! },
        { spec, instance, extra },
      );
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      const place = error.field?.startsWith('seed.') ? error.field.split('.') : ['seed', 'user-data'];
      const { fix } = error.detail;
      throw lab.spec.mistake(place, error.message, typeof fix === 'string' ? fix : undefined);
    }
  };
}

function readSeed(path: string): { readonly bytes: Uint8Array; readonly mark?: SeedMark } | undefined {
  try {
    if (statSync(path).size > largestSeed) return { bytes: new Uint8Array() };
    const bytes = readFileSync(path);
    return { bytes, mark: seedMark(bytes) };
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return undefined;
    throw asSystemError(cause, 'read', path);
  }
}

/** 'denied': it may not be read by who asks. */
function readSeedIfLet(path: string): ReturnType<typeof readSeed> | 'denied' {
  try {
    return readSeed(path);
  } catch (error) {
    if (isDiskError(error, 'denied')) return 'denied';
    throw error;
  }
}

function isSeedOf(mark: SeedMark | undefined, lab: Lab, seat: string): mark is SeedMark {
  return mark?.lab === lab.name && mark.seat === seat;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function diskJob(lab: Lab, seat: string, path: string, size: number): FileJob {
  const encryption = newEncryption(lab);
  return {
    path,
    mode: diskModeOf(lab),
    content: () => encodeExtraDisk(lab.name, seat, size, encryption?.(seat)),
  };
}

/** The bytes of an empty extra disk. */
export function encodeExtraDisk(
  lab: string,
  seat: string,
  size: number,
  encryption?: DiskEncryption,
): Promise<Uint8Array> {
  const data = encodeProvenance({ v: 1, lab, seat, master: noMaster });
  return encodeSeatImage(size, { extensions: [{ type: ExtensionType.provenance, data }], encryption });
}
