import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, type TempDir, tempDir } from '../support/programs.ts';
import { foreignSeeds } from './foreign-seeds.ts';
import type { Find } from './fuzz-worker.ts';
import { Meter } from './meter.ts';
import { bundleWorker, runFuzz } from './run-fuzz.ts';
import { targets } from './targets/index.ts';

/** Inputs in all; COWHERD_FUZZ_INPUTS=1000000 for a long run, COWHERD_FUZZ_SEED for another one. */
const total = Number(process.env.COWHERD_FUZZ_INPUTS ?? 20_000);
const seed = Number(process.env.COWHERD_FUZZ_SEED ?? 1);
const whole = targets.reduce((sum, { share }) => sum + share, 0);

describe('no input makes a parser crash, hang, take too much memory, or throw an untyped error', () => {
  let folder: TempDir;
  let worker: string;
  let files: Map<string, Uint8Array>;

  beforeAll(async () => {
    folder = await tempDir('cowherd-fuzz-');
    worker = await bundleWorker(folder.path);
    files = have('qemu-img') ? await foreignSeeds(folder) : new Map();
  });
  afterAll(() => folder.remove());

  for (const { name, share } of targets) {
    const inputs = Math.ceil((total * share) / whole);
    it(`${name}: ${inputs} inputs`, { timeout: 60_000 + inputs * 20 }, async () => {
      const report = await runFuzz(worker, { target: name, seed, from: 0, to: inputs, files });
      if (report.finds.length > 0) expect.fail(describeFind(report.finds[0]!));
      expect(report.inputs).toBe(inputs);
      // Where all is refused, or nothing is, the mutations are of no use.
      expect(report.accepted).toBeGreaterThan(0);
      expect(report.accepted).toBeLessThan(inputs);
    });
  }

  it.skipIf(!have('qemu-img'))('images of qemu-img are among the seeds', () => {
    expect(files.size).toBeGreaterThan(5);
  });
});

const regressions = new URL('./regressions/', import.meta.url);

describe('what was found once stays fixed', () => {
  const meter = new Meter();
  beforeAll(() => meter.install());
  for (const file of readdirSync(regressions).filter((name) => name.endsWith('.json'))) {
    it(file.slice(0, -5), async () => {
      const { target: name, input, outcome } = JSON.parse(readFileSync(new URL(file, regressions), 'utf8'));
      meter.begin();
      const target = targets.find((one) => one.name === name)!;
      expect(await target.run(input, meter)).toBe(outcome);
      meter.checkTime();
      expect(meter.exceeded).toBeUndefined();
    });
  }
});

function describeFind({ target, seed: of, index, what, input, frozen }: Find): string {
  return [
    what,
    `target ${target}, seed ${of}, input ${index}: ${JSON.stringify(input)}`,
    `for test/fuzz/regressions/NAME.json: ${JSON.stringify({ target, input: frozen, outcome: 'refused' })}`,
  ].join('\n');
}
