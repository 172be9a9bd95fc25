import type { FormatDriver, OptionValues } from '../../src/formats/driver.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import type { ByteSource } from '../../src/storage/store.ts';
import { GuestModel } from './guest-model.ts';
import { type Operation, operationKinds } from './operations.ts';
import { RecordingDisk, type Tick } from './recording-store.ts';
import { SparseBytes } from './sparse-bytes.ts';
import { SparseStore } from './sparse-store.ts';

/** A file that stays as it is while the image over it is written. */
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
  readonly operations: readonly Operation[];
}

/** The names of the files of a scenario, as the image refers to them. */
export const fileNames = { image: 'image', backing: 'backing' } as const;

/** Where an image of a scenario is opened: its files, and who answers for names in it. */
export interface Surroundings {
  readonly scenario: Scenario;
  readonly formats: readonly FormatDriver[];
  readonly backing?: SparseBytes;
}

/** A scenario at work: what operations act upon. */
export interface Session extends Surroundings {
  readonly disk: RecordingDisk;
  readonly model: GuestModel;
  image: Image;
}

/** What a scenario left behind. */
export interface Recorded extends Surroundings {
  readonly disk: RecordingDisk;
  readonly model: GuestModel;
  /** When each operation ended. */
  readonly ends: readonly Tick[];
}

/** Opens the scenario's image over any source of its bytes. */
export function openScenarioImage(
  around: Surroundings,
  source: ByteSource,
  writable: boolean,
): Promise<Image> {
  return openImage(source, {
    format: around.scenario.format,
    writable,
    formats: around.formats,
    locks: 'none',
    layerOptions: around.scenario.layerOptions,
    resolve: async () => new SparseStore(around.backing!.fork(), fileNames.backing),
  });
}

/** Opens the scenario's image, made anew and durable, for operations. */
export async function beginSession(scenario: Scenario, formats: readonly FormatDriver[]): Promise<Session> {
  let files = madeFiles.get(scenario);
  if (files === undefined) {
    files = await makeFiles(scenario, formats);
    madeFiles.set(scenario, files);
  }
  const disk = new RecordingDisk();
  disk.addFile(fileNames.image, files.image);
  const around: Surroundings = { scenario, formats, backing: files.backing };
  const image = await openScenarioImage(around, disk.store(0), true);
  return { ...around, disk, image, model: new GuestModel(await readAll(image)) };
}

/** Nothing changes these: every session forks them. */
const madeFiles = new WeakMap<Scenario, ScenarioFiles>();

interface ScenarioFiles {
  readonly image: SparseBytes;
  readonly backing?: SparseBytes;
}

async function makeFiles(scenario: Scenario, formats: readonly FormatDriver[]): Promise<ScenarioFiles> {
  const backing = scenario.backing && (await makeBacking(scenario.backing, formats));
  const image = new SparseBytes();
  await createImage(
    new SparseStore(image, fileNames.image),
    scenario.format,
    scenario.size,
    scenario.options,
    {
      formats,
      backing: scenario.backing && { path: fileNames.backing, format: scenario.backing.format },
    },
  );
  return { image, backing };
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
  await createImage(store, plan.format, plan.size, {}, { formats });
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
