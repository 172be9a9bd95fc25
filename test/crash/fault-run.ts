import { isDiskError } from '../../src/errors.ts';
import type { FormatDriver } from '../../src/formats/driver.ts';
import { listSnapshots } from '../../src/operations/snapshot.ts';
import { type FaultPlan, PlannedFaults } from './faulty-store.ts';
import { compareContent, judgeState, type Verdict, wordsOf } from './judge.ts';
import { PowerCut } from './power-cut.ts';
import { Random } from './random.ts';
import {
  assertLive,
  beginSession,
  perform,
  readAll,
  reopen,
  type Scenario,
  type Session,
} from './session.ts';

/** How many operations of the scenario's store could fail in the plan's way. */
export async function countFaultPoints(
  scenario: Scenario,
  formats: readonly FormatDriver[],
  kind: FaultPlan['kind'],
): Promise<number> {
  const session = await beginSession(scenario, formats);
  const faults = new PlannedFaults({ kind, at: Number.POSITIVE_INFINITY, lasts: 'once', partial: 0 });
  session.disk.faults = faults;
  for (const operation of scenario.operations) await perform(session, operation);
  await session.image.flush();
  return faults.seen;
}

/**
 * Runs a scenario whose disk fails by plan, and says what is wrong after it: the failing operation must throw a
 * DiskError that says what the disk said and leave its range old, new, or a mix by sector; all else is as it was;
 * once the disk works again so does the image; and the power may be cut at any moment of all this.
 */
export async function judgeFault(
  scenario: Scenario,
  formats: readonly FormatDriver[],
  plan: FaultPlan,
  cutStates: number,
): Promise<Verdict> {
  const session = await beginSession(scenario, formats);
  const faults = new PlannedFaults(plan);
  session.disk.faults = faults;
  const where = (i: number) => {
    const last = faults.hit.at(-1);
    const what = last === undefined ? 'no fault yet' : `${last.kind} ${last.length} at ${last.at} failed`;
    return `operation ${i} (${scenario.operations[i]?.kind ?? 'last flush'}; ${what})`;
  };
  let failed = 0;
  for (const [i, operation] of [...scenario.operations, { kind: 'flush' } as const].entries()) {
    const before = session.disk.tick();
    try {
      await perform(session, operation);
    } catch (error) {
      faults.clear();
      failed += 1;
      const wrong = judgeError(error, plan) ?? (await reconcile(session, before));
      if (wrong !== undefined) return `${where(i)}: ${wrong}`;
      if (failed > 1) return `${where(i)}: fails again though the disk works: ${wordsOf(error)}`;
      // The guest tries again, as it would.
      try {
        await perform(session, operation);
      } catch (again) {
        return `${where(i)}: fails though the disk works again: ${wordsOf(again)}`;
      }
    }
  }
  try {
    await assertLive(session);
    await session.image[Symbol.asyncDispose]();
  } catch (error) {
    return `at the end: ${wordsOf(error)}`;
  }
  const recorded = { ...session, ends: [] };
  const last = await judgeState(
    recorded,
    session.disk.files.map(({ live }) => live),
    session.disk.now,
  );
  if (last.verdict !== undefined) return `at the end (${where(0)}): ${last.verdict}`;
  for (const state of new PowerCut(session.disk).sample(new Random(plan.at + 1), cutStates)) {
    const { verdict } = await judgeState(recorded, state.files, state.recipe.tick);
    if (verdict !== undefined) {
      return `after a fault (${where(0)}) and a cut: ${verdict}\ncut: ${JSON.stringify(state.recipe)}`;
    }
  }
  return undefined;
}

/** Where closing fails as well, the error that led to it. */
function firstOf(error: unknown): unknown {
  if (error instanceof Error && error.name === 'SuppressedError' && 'suppressed' in error) {
    return firstOf(error.suppressed);
  }
  return error;
}

function judgeError(thrown: unknown, plan: FaultPlan): Verdict {
  const error = firstOf(thrown);
  const code = plan.kind === 'ENOSPC' ? 'out-of-space' : 'io';
  if (isDiskError(error, code)) return undefined;
  return `the disk said ${code}, and the image ${wordsOf(error)}`;
}

/** A snapshot whose taking failed is there or is not. */
async function settleSnapshots({ image, snapshots, disk }: Session): Promise<void> {
  if (snapshots.length === 0) return;
  const there = (await listSnapshots(image)).map(({ name }) => name);
  for (const taken of snapshots) {
    if (taken.done !== Number.POSITIVE_INFINITY || taken.deleted !== Number.POSITIVE_INFINITY) continue;
    if (there.includes(taken.name)) taken.done = disk.tick();
    else taken.deleted = disk.tick();
  }
}

/** What the image reads as after a failed operation, as the model's new present, when it is allowed. */
async function reconcile(session: Session, before: number): Promise<Verdict> {
  const { closed } = session;
  try {
    // A close that failed has closed all the same, and may have lost what was not flushed.
    if (closed) await reopen(session);
    await settleSnapshots(session);
    const tick = session.disk.tick();
    const expectation = closed ? session.model.at(tick) : session.model.between(before, tick);
    const content = await readAll(session.image);
    const wrong = compareContent(session.scenario, expectation, content);
    if (wrong !== undefined) return `afterwards: ${wrong}`;
    if (content.length !== session.model.size) session.model.resize(tick, content.length).done(tick);
    session.model.write(tick, 0, content).done(session.disk.tick());
    return undefined;
  } catch (error) {
    return `the image cannot be read afterwards: ${wordsOf(error)}`;
  }
}
