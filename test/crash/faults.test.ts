import { describe, expect, it } from 'vitest';
import { formats } from '../../src/formats/index.ts';
import { drawScenario, subjects } from './draw-scenario.ts';
import { countFaultPoints, judgeFault } from './fault-run.ts';
import type { FaultPlan } from './faulty-store.ts';
import { Random } from './random.ts';
import type { Scenario } from './session.ts';

/** Runs in all; COWHERD_FAULT_RUNS=100000 for a long run. */
const total = Number(process.env.COWHERD_FAULT_RUNS ?? 2000);
const seed = Number(process.env.COWHERD_CRASH_SEED ?? 1);
const whole = subjects.reduce((sum, { share }) => sum + share, 0);

const plans: readonly Omit<FaultPlan, 'at'>[] = [
  { kind: 'ENOSPC', lasts: 'once', partial: 0 },
  { kind: 'ENOSPC', lasts: 'until cleared', partial: 0.5 },
  { kind: 'EIO', lasts: 'once', partial: 0.5 },
  { kind: 'EIO', lasts: 'until cleared', partial: 0 },
];

describe('a disk that fails at any operation leaves an image that works again with it', () => {
  for (const [i, subject] of subjects.entries()) {
    const runs = Math.ceil((total * subject.share) / whole);

    it(`${subject.name}: ${runs} faults`, { timeout: 60_000 + total * 50 }, async () => {
      const random = new Random(seed * 1000 + i);
      let done = 0;
      while (done < runs) {
        const scenario = drawScenario(random, subject, random.between(3, 9));
        // The tables of large clusters take their time, and are no different.
        if (Number(scenario.options.cluster_size ?? 0) > 65_536) continue;
        for (const plan of plans) {
          // Every operation of a short sequence in turn; those of a long one by chance.
          const points = await countFaultPoints(scenario, formats, plan.kind);
          for (let at = 0; at < points && done < runs; at += 1) {
            if (points > 60 && !random.chance(60 / points)) continue;
            done += 1;
            const verdict = await judgeFault(scenario, formats, { ...plan, at }, 4);
            if (verdict !== undefined) expect.fail(recipe(scenario, { ...plan, at }, verdict));
          }
        }
      }
      expect(done).toBe(runs);
    });
  }
});

function recipe(scenario: Scenario, plan: FaultPlan, verdict: string): string {
  const { operations, ...image } = scenario;
  const lines = operations.map((operation, i) => `  ${i}: ${JSON.stringify(operation)}`);
  return [verdict, `plan: ${JSON.stringify(plan)}`, `image: ${JSON.stringify(image)}`, ...lines].join('\n');
}
