import { isDiskError } from '../../src/errors.ts';
import type { CheckResult } from '../../src/formats/driver.ts';
import type { Image } from '../../src/image/image.ts';
import { checkImage } from '../../src/operations/check.ts';
import { openSnapshot } from '../../src/operations/snapshot.ts';
import { abilitiesOf } from './abilities.ts';
import type { Expectation } from './guest-model.ts';
import type { Tick } from './recording-store.ts';
import { type OpenHow, openChain, type Recorded, readAll, type Scenario, stamped } from './session.ts';
import type { SparseBytes } from './sparse-bytes.ts';
import { SparseStore } from './sparse-store.ts';

/** What is wrong with a state, in words; undefined: nothing. */
export type Verdict = string | undefined;

/** What a state's image was found to hold, for the independent judge to agree with. */
export interface Findings {
  readonly content: Uint8Array;
  readonly leaks: number;
  readonly dirty: boolean;
}

/** The files of a state, to be opened again and again: what one opening writes the next one finds. */
class StateFiles {
  private readonly stores: ReadonlyMap<string, SparseStore>;

  constructor(
    private readonly recorded: Recorded,
    files: readonly SparseBytes[],
  ) {
    this.stores = new Map(
      recorded.disk.files.map(({ name }, i) => [name, new SparseStore(files[i]!.fork(), name)]),
    );
  }

  open(how: OpenHow): Promise<Image> {
    return openChain(this.recorded, (name) => this.stores.get(name)!, how);
  }

  get changes(): number {
    let count = 0;
    for (const store of this.stores.values()) count += store.changes;
    return count;
  }
}

/**
 * Whether the image in `files` is what it may be after a cut at `tick`: it opens, has at most leaks, and every
 * byte reads as flushed, or as written since. Read-only, and so it must leave the files as they are.
 */
export async function judgeState(
  recorded: Recorded,
  files: readonly SparseBytes[],
  tick: Tick,
): Promise<{ readonly verdict: Verdict; readonly findings?: Findings }> {
  const expectation = recorded.model.at(tick);
  const state = new StateFiles(recorded, files);
  try {
    await using image = await state.open({ writable: false });
    const content = await readAll(image);
    const details = await image.layer.details();
    const dirty = details.dirty === true;
    const { leaks, wrong } = dirty ? { leaks: 0, wrong: undefined } : await checkChain(recorded, image);
    const verdict =
      compareContent(recorded.scenario, expectation, content) ??
      wrong ??
      (await judgeSnapshots(
        recorded,
        state,
        tick,
        (details.snapshots ?? []).map(({ name }) => name),
      ));
    if (verdict !== undefined) return { verdict };
    if (state.changes > 0) return { verdict: 'a read-only open wrote to the file' };
    const findings = { content, leaks, dirty };
    // A dirty mark promises that opening for writing repairs; that is judged by the recovery.
    return { verdict: dirty ? await judgeRecovery(recorded, files, tick, 0) : undefined, findings };
  } catch (error) {
    return { verdict: `fails: ${wordsOf(error)}` };
  }
}

/** Those that must be there are there, and each that is there shows what it was taken of. */
async function judgeSnapshots(
  { snapshots }: Recorded,
  state: StateFiles,
  tick: Tick,
  found: readonly string[],
): Promise<Verdict> {
  for (const { name, content, done, deleted } of snapshots) {
    if (!found.includes(name)) {
      if (done <= tick && deleted > tick) return `snapshot ${name} is gone`;
      continue;
    }
    await using image = await state.open({ writable: false });
    await openSnapshot(image, { name });
    const length = Math.min(image.size, content.length);
    const shown = new Uint8Array(length);
    await image.read(0, shown);
    if (Buffer.compare(shown, content.subarray(0, length)) !== 0)
      return `snapshot ${name} shows other content`;
  }
  for (const name of found) {
    if (!snapshots.some((taken) => taken.name === name))
      return `there is a snapshot ${name} that nobody took`;
  }
  return undefined;
}

/**
 * Whether the state can be worked with again: opened for writing, repaired, written, and closed, and then has
 * no error at all and holds what it should.
 */
export async function judgeRecovery(
  recorded: Recorded,
  files: readonly SparseBytes[],
  tick: Tick,
  stamp: number,
): Promise<Verdict> {
  const expectation = recorded.model.at(tick);
  const state = new StateFiles(recorded, files);
  try {
    const { repairs = [] } = abilitiesOf(recorded.scenario.format);
    if (stamp % 2 === 1 && repairs.length > 0) {
      await using image = await state.open({ writable: true, checking: true });
      // A dirty image needs its refcounts rebuilt, which is more than leaks.
      const dirty = (await image.layer.details()).dirty === true;
      const repair = stamp % 4 === 1 && !dirty && repairs.includes('leaks') ? 'leaks' : 'all';
      await checkImage(image.layer, { repair }, recorded.formats);
    }
    let expected: Uint8Array;
    {
      await using image = await state.open({ writable: true });
      expected = await readAll(image);
      const wrong = compareContent(recorded.scenario, expectation, expected);
      if (wrong !== undefined) return `opened for writing: ${wrong}`;
      for (let i = 0; i < 4; i += 1) {
        const length = Math.min(image.size, 700 + ((stamp >>> i) % 9000));
        const at = Math.floor((((stamp >>> (i * 3)) % 1024) / 1024) * (image.size - length));
        const bytes = stamped(stamp + i, length);
        await image.write(at, bytes);
        expected.set(bytes, at);
      }
      await image.flush();
    }
    await using image = await state.open({ writable: false });
    const content = await readAll(image);
    if (Buffer.compare(content, expected) !== 0) {
      return `after recovery: byte ${content.findIndex((byte, i) => byte !== expected[i])} is not as written`;
    }
    const { wrong } = await checkChain(recorded, image);
    return wrong && `after recovery ${wrong}`;
  } catch (error) {
    return `recovery fails: ${wordsOf(error)}`;
  }
}

/** The check of the image and of those below it. */
async function checkChain(
  { formats }: Recorded,
  image: Image,
): Promise<{ readonly leaks: number; readonly wrong: Verdict }> {
  let leaks = 0;
  for (let one: Image | undefined = image; one !== undefined; one = one.backing) {
    if (!formats.find(({ name }) => name === one.layer.format)?.check) continue;
    let counted = 0;
    const result = await checkImage(
      one.layer,
      {
        onFinding: ({ message }) => {
          if (countsTooMuch(message)) counted++;
        },
      },
      formats,
    );
    leaks += result.leaks + counted;
    if (result.corruptions + result.checkErrors === counted) continue;
    const where = one === image ? '' : ` in '${one.layer.source.name}'`;
    return { leaks, wrong: `check finds corruption${where}: ${describe(result)}` };
  }
  return { leaks, wrong: undefined };
}

/**
 * A VDI header that counts more blocks than the map names: space that nobody uses, though qemu-img and so we call it
 * corruption. Neither sector can be written together with the other.
 */
export function countsTooMuch(message: string): boolean {
  const found = /allocated blocks mismatch, is (\d+), should be (\d+)/.exec(message);
  return found !== null && Number(found[1]) < Number(found[2]);
}

function describe(result: CheckResult): string {
  return `${result.corruptions} corruptions, ${result.leaks} leaks, ${result.checkErrors} check errors`;
}

/** The content of a state against what is allowed. */
export function compareContent(scenario: Scenario, expectation: Expectation, content: Uint8Array): Verdict {
  const { sizes } = expectation;
  const { sizeOfFile, growsScrambled } = abilitiesOf(scenario.format);
  const fits = sizeOfFile
    ? content.length >= Math.min(...sizes) && content.length <= Math.max(...sizes)
    : sizes.includes(content.length);
  if (!fits) return `guest size is ${content.length}, not one of ${sizes.join(', ')}`;
  const promised = growsScrambled ? content.subarray(0, Math.min(...sizes)) : content;
  const mismatches = expectation.mismatches(promised);
  if (mismatches.length === 0) return undefined;
  const lines = mismatches.map(
    ({ sector, found, allowed }) =>
      `sector ${sector} (byte ${sector * 512}) holds ${glimpse(found)}, allowed ${allowed.map(glimpse).join(' or ')}`,
  );
  return `wrong content: ${lines.join('; ')}`;
}

function glimpse(bytes: Uint8Array): string {
  if (bytes.every((byte) => byte === 0)) return 'zeroes';
  const hex = Buffer.from(bytes).toString('hex');
  return `${hex.slice(0, 8)}…${hex.slice(-8)}`;
}

/** An error with its kind, so that an untyped one stands out. */
export function wordsOf(error: unknown): string {
  if (isDiskError(error)) {
    const field = error.field === undefined ? '' : ` [${error.field}]`;
    return `DiskError ${error.code}: ${error.message}${field}`;
  }
  return `UNTYPED ${error instanceof Error ? error.stack : String(error)}`;
}
