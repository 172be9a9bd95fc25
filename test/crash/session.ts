import type { FormatDriver, OptionValues } from '../../src/formats/driver.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { registerNodePrimitives } from '../../src/platform/node-primitives.ts';
import { registerZlibCodec } from '../../src/platform/zlib-codec.ts';
import { registerZstdCodec } from '../../src/platform/zstd-codec.ts';
import type { ByteSource } from '../../src/storage/store.ts';
import { GuestModel } from './guest-model.ts';
import { type Operation, operationKinds } from './operations.ts';
import { RecordingDisk, type Tick } from './recording-store.ts';
import { SparseBytes } from './sparse-bytes.ts';
import { SparseStore } from './sparse-store.ts';

registerNodePrimitives();
registerZlibCodec();
registerZstdCodec();

/** A file that lies under the image: written only by a commit. */
export interface BackingPlan {
  readonly format: string;
  readonly size: number;
  /** Of its contents. */
  readonly stamp: number;
}

/** Everything that decides what is recorded: a plain value, printed when a state fails. */
export interface Scenario {
  readonly format: string;
  readonly size: number;
  readonly options: OptionValues;
  readonly layerOptions?: Readonly<Record<string, unknown>>;
  readonly backing?: BackingPlan;
  /** What a rebase may name instead of the backing image. */
  readonly other?: BackingPlan;
  readonly operations: readonly Operation[];
}

/** What every secret is, for formats that ask for one. */
export const passphrase = 'secret';
const secret = async (): Promise<Uint8Array> => new TextEncoder().encode(passphrase);

/** The names of the files of a scenario, as the image refers to them; a format may make more (extents). */
export const fileNames = { image: 'image', backing: 'backing', other: 'other', data: 'data' } as const;

export interface Surroundings {
  readonly scenario: Scenario;
  readonly formats: readonly FormatDriver[];
}

/** A snapshot and what it must show as long as it is there. */
export interface TakenSnapshot {
  readonly name: string;
  readonly content: Uint8Array;
  /** When it began to be taken, and was durable. */
  readonly issued: Tick;
  done: Tick;
  /** When its deletion began. */
  deleted: Tick;
}

/** A scenario at work: what operations act upon. */
export interface Session extends Surroundings {
  readonly disk: RecordingDisk;
  readonly model: GuestModel;
  readonly snapshots: TakenSnapshot[];
  image: Image;
  /** The image has been closed, and is not open again: a program that failed leaves it so. */
  closed: boolean;
}

/** What a scenario left behind. */
export interface Recorded extends Surroundings {
  readonly disk: RecordingDisk;
  readonly model: GuestModel;
  readonly snapshots: readonly TakenSnapshot[];
  /** When each operation ended. */
  readonly ends: readonly Tick[];
}

export interface OpenHow {
  readonly writable: boolean;
  /** 1: the backing image too. */
  readonly writableBacking?: number;
  /** Only for the checker, which repairs it. */
  readonly checking?: boolean;
}

/** Opens the scenario's image and its chain, each file by its name. */
export function openChain(
  { scenario, formats }: Surroundings,
  file: (name: string) => ByteSource,
  { checking = false, ...how }: OpenHow,
): Promise<Image> {
  return openImage(file(fileNames.image), {
    ...how,
    checking,
    metadataOnly: checking,
    format: scenario.format,
    formats,
    locks: 'none',
    layerOptions: scenario.layerOptions,
    secret,
    resolve: async ({ path }) => file(path.replace(/^\.\//, '')),
  });
}

/** Opens the session's image over its recording disk. */
export function openLive(
  session: Surroundings & { readonly disk: RecordingDisk },
  how: OpenHow,
): Promise<Image> {
  const { disk } = session;
  return openChain(session, (name) => disk.store(disk.fileOf(name)), how);
}

/** Closes the image, which flushes it, and opens it again after the work. */
export async function withClosed(session: Session, work: () => Promise<void>): Promise<void> {
  const flush = session.model.flush(session.disk.tick());
  session.closed = true;
  await session.image[Symbol.asyncDispose]();
  flush.done(session.disk.tick());
  await work();
  await reopen(session);
}

export async function reopen(session: Session): Promise<void> {
  session.image = await openLive(session, { writable: true });
  session.closed = false;
}

/** Opens the scenario's image, made anew and durable, for operations. */
export async function beginSession(scenario: Scenario, formats: readonly FormatDriver[]): Promise<Session> {
  let files = madeFiles.get(scenario);
  if (files === undefined) {
    files = await makeFiles(scenario, formats);
    madeFiles.set(scenario, files);
  }
  return openSession({ scenario, formats }, files);
}

/** A session over files as they are, all of it durable. */
export async function openSession(
  around: Surroundings,
  files: ReadonlyMap<string, SparseBytes>,
): Promise<Session> {
  const disk = new RecordingDisk();
  for (const [name, content] of files) disk.addFile(name, content);
  const image = await openLive({ ...around, disk }, { writable: true });
  return {
    ...around,
    disk,
    image,
    model: new GuestModel(await readAll(image)),
    snapshots: [],
    closed: false,
  };
}

/** Nothing changes these: every session forks them. */
const madeFiles = new WeakMap<Scenario, ReadonlyMap<string, SparseBytes>>();

async function makeFiles(
  scenario: Scenario,
  formats: readonly FormatDriver[],
): Promise<ReadonlyMap<string, SparseBytes>> {
  const files = new Map<string, SparseBytes>();
  const image = new SparseBytes();
  files.set(fileNames.image, image);
  for (const name of [fileNames.backing, fileNames.other] as const) {
    const plan = scenario[name];
    if (plan !== undefined) files.set(name, await makeBacking(plan, formats));
  }
  const backing = scenario.backing && { path: fileNames.backing, format: scenario.backing.format };
  const store = new SparseStore(image, fileNames.image);
  await createImage(store, scenario.format, scenario.size, scenario.options, {
    formats,
    backing,
    secret,
    name: fileNames.image,
    sibling: async (name) => {
      const content = new SparseBytes();
      files.set(name, content);
      return new SparseStore(content, name);
    },
    openBacking: async () => new SparseStore(files.get(fileNames.backing)!, fileNames.backing),
  });
  return files;
}

/** The whole guest content. */
export async function readAll(image: Image): Promise<Uint8Array> {
  const content = new Uint8Array(image.size);
  await image.read(0, content);
  return content;
}

/** Runs a scenario to its end and gives the record. Closes the image. */
export async function record(scenario: Scenario, formats: readonly FormatDriver[]): Promise<Recorded> {
  const session = await beginSession(scenario, formats);
  const ends: Tick[] = [];
  for (const operation of scenario.operations) {
    await perform(session, operation);
    ends.push(session.disk.now);
  }
  await assertLive(session);
  await session.image[Symbol.asyncDispose]();
  return { ...session, ends };
}

/** Throws when the image does not read, with the power on, as the model says. */
export async function assertLive({ image, model }: Session): Promise<void> {
  const expected = model.current();
  if (image.size !== expected.length)
    throw new Error(`the image has ${image.size} bytes, not ${expected.length}`);
  const live = await readAll(image);
  if (Buffer.compare(live, expected) === 0) return;
  const at = live.findIndex((byte, i) => byte !== expected[i]);
  throw new Error(`byte ${at} (sector ${Math.floor(at / 512)}) does not read as written`);
}

export async function perform(session: Session, operation: Operation): Promise<void> {
  await operationKinds[operation.kind].run(session, operation as never);
}

async function makeBacking(plan: BackingPlan, formats: readonly FormatDriver[]): Promise<SparseBytes> {
  const content = new SparseBytes();
  const store = new SparseStore(content, fileNames.backing);
  const exact = plan.format === 'vpc' ? { force_size: true } : {};
  await createImage(store, plan.format, plan.size, exact, { formats });
  await using image = await openImage(store, { format: plan.format, writable: true, formats, locks: 'none' });
  // Every third stretch stays empty, so that all three kinds of cluster lie below the overlay.
  const stretch = Math.max(4096, Math.ceil(plan.size / 24 / 512) * 512);
  for (let at = 0, i = 0; at < plan.size; at += stretch, i += 1) {
    if (i % 3 === 2) continue;
    await image.write(at, stamped(plan.stamp + i, Math.min(stretch, plan.size - at)));
  }
  return content;
}

/** Bytes that tell by their look which write they are of: no two stamps share a sector's content. */
export function stamped(stamp: number, length: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  let word = Math.imul(stamp + 1, 0x9e3779b1) | 1;
  for (let i = 0; i < words.length; i += 1) {
    word = (Math.imul(word, 0x19660d) + 0x3c6ef35f) | 0;
    words[i] = word;
  }
  return new Uint8Array(words.buffer, 0, length);
}
