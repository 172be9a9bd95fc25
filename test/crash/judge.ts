import { isDiskError } from '../../src/errors.ts';
import type { CheckResult, FormatDriver } from '../../src/formats/driver.ts';
import type { Image } from '../../src/image/image.ts';
import type { Expectation } from './guest-model.ts';
import type { Tick } from './recording-store.ts';
import {
  openScenarioImage,
  type Recorded,
  readAll,
  type Scenario,
  type Surroundings,
  stamped,
} from './session.ts';
import type { SparseBytes } from './sparse-bytes.ts';
import { SparseStore } from './sparse-store.ts';

/** What is wrong with a state, in words; undefined: nothing. */
export type Verdict = string | undefined;

/** What a state's image was found to hold, for the independent judge to agree with. */
export interface Findings {
  readonly content: Uint8Array;
  readonly leaks: number;
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
  const store = new SparseStore(files[0]!.fork(), 'state');
  try {
    await using image = await openScenarioImage(recorded, store, false);
    const content = await readAll(image);
    const wrong = compareContent(recorded.scenario, expectation, content);
    if (wrong !== undefined) return { verdict: wrong };
    const dirty = (await image.layer.details()).dirty === true;
    let leaks = 0;
    if (!dirty) {
      const result = await check(recorded, image);
      leaks = result?.leaks ?? 0;
      if (result !== undefined && result.corruptions + result.checkErrors > 0) {
        return { verdict: `check finds corruption: ${describe(result)}` };
      }
    }
    if (store.changes > 0) return { verdict: 'a read-only open wrote to the file' };
    // A dirty mark promises that opening for writing repairs; that is judged by the recovery.
    if (dirty)
      return { verdict: await judgeRecovery(recorded, files, tick, 0), findings: { content, leaks } };
    return { verdict: undefined, findings: { content, leaks } };
  } catch (error) {
    return { verdict: `fails: ${wordsOf(error)}` };
  }
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
  const store = new SparseStore(files[0]!.fork(), 'state');
  try {
    let expected: Uint8Array;
    {
      await using image = await openScenarioImage(recorded, store, true);
      const driver = driverOf(recorded);
      if (driver?.check !== undefined && stamp % 2 === 0)
        await driver.check(image.layer, { repair: 'leaks' });
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
    await using image = await openScenarioImage(recorded, store, false);
    const content = await readAll(image);
    if (Buffer.compare(content, expected) !== 0) {
      return `after recovery: byte ${content.findIndex((byte, i) => byte !== expected[i])} is not as written`;
    }
    const result = await check(recorded, image);
    if (result !== undefined && result.corruptions + result.checkErrors > 0) {
      return `after recovery check finds corruption: ${describe(result)}`;
    }
    return undefined;
  } catch (error) {
    return `recovery fails: ${wordsOf(error)}`;
  }
}

function driverOf({ scenario, formats }: Surroundings): FormatDriver | undefined {
  return formats.find(({ name }) => name === scenario.format);
}

async function check(around: Surroundings, image: Image): Promise<CheckResult | undefined> {
  return driverOf(around)?.check?.(image.layer, { repair: 'none' });
}

function describe(result: CheckResult): string {
  return `${result.corruptions} corruptions, ${result.leaks} leaks, ${result.checkErrors} check errors`;
}

/** The content of a state against what is allowed. */
export function compareContent(scenario: Scenario, expectation: Expectation, content: Uint8Array): Verdict {
  const { sizes } = expectation;
  // A raw image has no field for its size: a cut may leave the file anywhere on the way.
  const fits =
    scenario.format === 'raw'
      ? content.length >= Math.min(...sizes) && content.length <= Math.max(...sizes)
      : sizes.includes(content.length);
  if (!fits) return `guest size is ${content.length}, not one of ${sizes.join(', ')}`;
  const mismatches = expectation.mismatches(content);
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
