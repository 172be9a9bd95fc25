import type { FormatDriver } from '../../src/formats/driver.ts';
import { type Failure, tryScenario } from './campaign.ts';
import { judgeRecovery, judgeState } from './judge.ts';
import { PowerCut } from './power-cut.ts';
import { record } from './session.ts';

/**
 * A failure of fewer operations and fewer applied changes that still fails. Each attempt records again and
 * looks at some hundreds of states, so it is not the least there is, but one that can be read.
 */
export async function minimize(
  failure: Failure,
  formats: readonly FormatDriver[],
  milliseconds = 20_000,
): Promise<Failure> {
  const deadline = Date.now() + milliseconds;
  let best = failure;
  for (let step = Math.ceil(best.scenario.operations.length / 2); step >= 1; step = Math.floor(step / 2)) {
    for (let at = best.scenario.operations.length - step; at >= 0 && Date.now() < deadline; at -= step) {
      const operations = best.scenario.operations.filter((_, i) => i < at || i >= at + step);
      const scenario = { ...best.scenario, operations };
      const found = await tryScenario(scenario, formats, 1, 300);
      // Without an operation those after it may make no sense: that is another failure.
      if (found !== undefined && (found.cut === undefined) === (best.cut === undefined)) best = found;
    }
  }
  if (best.cut === undefined) return best;
  // The record is the same each time, so its changes can be left out one by one.
  const recorded = await record(best.scenario, formats);
  const cuts = new PowerCut(recorded.disk);
  let least = best.cut;
  for (let i = least.applied.length - 1; i >= 0 && Date.now() < deadline; i -= 1) {
    const cut = { ...least, applied: least.applied.filter((_, at) => at !== i) };
    const state = cuts.replay(cut);
    const verdict =
      (await judgeState(recorded, state.files, cut.tick)).verdict ??
      (await judgeRecovery(recorded, state.files, cut.tick, 1));
    if (verdict === undefined) continue;
    least = cut;
    best = { ...best, cut, verdict };
  }
  return best;
}

/** A failure for people: what is wrong, what was done, what reached the disk, and how to see it again. */
export async function explain(failure: Failure, formats: readonly FormatDriver[]): Promise<string> {
  const { operations, ...image } = failure.scenario;
  const lines = [failure.verdict, '', `image: ${JSON.stringify(image)}`, 'operations:'];
  for (const [i, operation] of operations.entries()) lines.push(`  ${i}: ${JSON.stringify(operation)}`);
  const { cut } = failure;
  if (cut !== undefined) {
    const recorded = await record(failure.scenario, formats);
    const { disk, ends } = recorded;
    const parts = new Map(cut.applied.map(({ change, part }) => [change, part]));
    const flushed = disk.flushes.filter((flush) => flush.done <= cut.tick);
    const since = Math.max(0, ...flushed.map((flush) => flush.started));
    const at = ends.findIndex((end) => end >= cut.tick);
    lines.push(
      `cut at tick ${cut.tick}, in operation ${at < 0 ? operations.length : at}; changes since the last flush:`,
    );
    for (const change of disk.changes) {
      if (change.done < since || change.issued > cut.tick) continue;
      const part = parts.get(change.index);
      const what =
        change.kind === 'resize'
          ? `resize ${change.sizeBefore} to ${change.size}`
          : change.kind === 'write'
            ? `write ${change.bytes.length} at ${change.at}`
            : `zero ${change.length} at ${change.at}`;
      lines.push(`  #${change.index} ${what}: ${part === undefined ? 'lost' : JSON.stringify(part)}`);
    }
  }
  lines.push(
    '',
    'to see it again:',
    `COWHERD_CRASH_RECIPE='${JSON.stringify({ scenario: failure.scenario, cut })}'`,
  );
  return lines.join('\n');
}
