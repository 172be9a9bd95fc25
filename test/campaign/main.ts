import { formats } from '../../src/formats/index.ts';
import { runCampaign } from '../crash/campaign.ts';
import { subjects } from '../crash/draw-scenario.ts';
import { explain, minimize } from '../crash/minimize.ts';
import { foreignSeeds } from '../fuzz/foreign-seeds.ts';
import { bundleWorker, runFuzz } from '../fuzz/run-fuzz.ts';
import { targets } from '../fuzz/targets/index.ts';
import { have, tempDir } from '../support/programs.ts';
import { Ledger, type UnitResult } from './ledger.ts';

/*
 * The long runs of the power-cut simulator and of the fuzzer, for hours and in pieces: `node scripts/campaign.mjs`
 * says how. What they find is in failures.txt of the folder.
 */

interface Unit {
  readonly name: string;
  readonly group: string;
  run(): Promise<{ readonly count: number; readonly failures: readonly string[] }>;
}

const statesPerUnit = 2000;
const inputsPerUnit = 5000;

/** Every group in turn, as its share has it, so that a campaign that is cut short has seen all of them. */
function interleaved(groups: readonly (readonly Unit[])[]): Unit[] {
  const placed = groups.flatMap((units) => units.map((unit, i) => ({ unit, at: (i + 0.5) / units.length })));
  return placed.sort((a, b) => a.at - b.at).map(({ unit }) => unit);
}

function crashUnits(total: number, seed: number): Unit[] {
  const whole = subjects.reduce((sum, { share }) => sum + share, 0);
  return interleaved(
    subjects.map((subject) => {
      const count = Math.ceil((total * subject.share) / whole / statesPerUnit);
      return Array.from({ length: count }, (_, i) => ({
        name: `crash ${subject.name} ${seed} ${i}`,
        group: subject.name,
        async run() {
          const unitSeed = seed * 1_000_000 + nameSeed(subject.name) + i;
          const result = await runCampaign({ subject, formats, seed: unitSeed, states: statesPerUnit });
          const { failure } = result;
          if (!failure) return { count: result.states, failures: [] };
          const text = await explain(await minimize(failure, formats), formats);
          return { count: result.states, failures: [`${subject.name}, seed ${unitSeed}: ${text}`] };
        },
      }));
    }),
  );
}

/** Far apart for different names, so that a subject that is added changes nothing of the others. */
function nameSeed(name: string): number {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.charCodeAt(0)) % 900;
  return sum * 1000;
}

async function fuzzUnits(
  total: number,
  seed: number,
  folder: Awaited<ReturnType<typeof tempDir>>,
): Promise<Unit[]> {
  const worker = await bundleWorker(folder.path);
  const files = have('qemu-img') ? await foreignSeeds(folder) : new Map<string, Uint8Array>();
  const whole = targets.reduce((sum, { share }) => sum + share, 0);
  return interleaved(
    targets.map(({ name, share }) => {
      const inputs = Math.ceil((total * share) / whole / inputsPerUnit);
      return Array.from({ length: inputs }, (_, i) => ({
        name: `fuzz ${name} ${seed} ${i}`,
        group: name,
        async run() {
          const order = { target: name, seed, from: i * inputsPerUnit, to: (i + 1) * inputsPerUnit, files };
          const report = await runFuzz(worker, { ...order, mostFinds: 5 });
          const failures = report.finds.map(({ index, what, frozen }) => {
            const kept = JSON.stringify({ target: name, input: frozen, outcome: 'refused' });
            return `${name}, seed ${seed}, input ${index}: ${what}\nfor test/fuzz/regressions/: ${kept}`;
          });
          return { count: report.inputs, failures };
        },
      }));
    }),
  );
}

async function work(ledger: Ledger, units: readonly Unit[]): Promise<void> {
  const started = performance.now();
  let count = 0;
  for (const unit of units) {
    if (!ledger.claim(unit.name)) continue;
    const from = performance.now();
    const cpu = process.cpuUsage();
    const done = await unit.run();
    const used = process.cpuUsage(cpu);
    const result: UnitResult = {
      group: unit.group,
      ...done,
      cpu: (used.user + used.system) / 1e6,
      wall: (performance.now() - from) / 1000,
    };
    ledger.finish(unit.name, result);
    count += done.count;
    const seconds = (performance.now() - started) / 1000;
    const failed = done.failures.length > 0 ? `, ${done.failures.length} FAILED` : '';
    console.log(
      `${unit.name}: ${done.count} in ${result.cpu.toFixed(1)} s of CPU${failed}; this run ${count} in ` +
        `${seconds.toFixed(0)} s, ${(count / seconds).toFixed(0)} a second`,
    );
  }
}

const [kind, folderName, totalText = '1000000', seedText = '1'] = process.argv.slice(2);
const ledger = new Ledger(folderName!);
if (kind === 'crash') await work(ledger, crashUnits(Number(totalText), Number(seedText)));
else if (kind === 'fuzz') {
  await using folder = await tempDir('cowherd-fuzz-');
  await work(ledger, await fuzzUnits(Number(totalText), Number(seedText), folder));
}
console.log(ledger.report());
process.exitCode = ledger.results().some(({ failures }) => failures.length > 0) ? 1 : 0;
