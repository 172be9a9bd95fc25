import { type FormatDriver, unitOf } from '../../src/formats/driver.ts';
import { listSnapshots } from '../../src/operations/snapshot.ts';
import { abilitiesOf } from './abilities.ts';
import { drawScenario, type Subject } from './draw-scenario.ts';
import { type Findings, judgeRecovery, judgeState, wordsOf } from './judge.ts';
import { drawOperations, type Operation } from './operations.ts';
import { type CutRecipe, type CutState, PowerCut } from './power-cut.ts';
import { Random } from './random.ts';
import { openSession, perform, type Recorded, record, type Scenario } from './session.ts';

/** A state that is not what it may be, or a scenario that fails with the power on. */
export interface Failure {
  readonly scenario: Scenario;
  readonly cut?: CutRecipe;
  readonly verdict: string;
}

export interface CampaignOptions {
  readonly subject: Subject;
  readonly formats: readonly FormatDriver[];
  readonly seed: number;
  /** States to judge. */
  readonly states: number;
  readonly operationsPerScenario?: number;
  readonly statesPerScenario?: number;
  /** Called with every state that was found good. */
  readonly onState?: (
    recorded: Recorded,
    state: CutState,
    findings: Findings,
    number: number,
  ) => Promise<void>;
  /** Milliseconds since the epoch after which no new scenario begins. */
  readonly deadline?: number;
}

export interface CampaignResult {
  readonly states: number;
  readonly scenarios: number;
  readonly leakyStates: number;
  readonly failure?: Failure;
}

/** Records scenarios and judges what each may leave behind, until `states` are judged or one fails. */
export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const random = new Random(options.seed);
  let states = 0;
  let scenarios = 0;
  let leakyStates = 0;
  while (states < options.states && !(Date.now() > (options.deadline ?? Number.POSITIVE_INFINITY))) {
    const scenario = drawScenario(
      random,
      options.subject,
      options.operationsPerScenario ?? random.between(4, 30),
    );
    const seed = random.word();
    const most = options.statesPerScenario ?? (isSlow(scenario) ? 10 : 150);
    const wanted = Math.min(most, options.states - states);
    scenarios += 1;
    const outcome = await tryScenario(
      scenario,
      options.formats,
      seed,
      wanted,
      async (recorded, state, findings) => {
        states += 1;
        if (findings.leaks > 0) leakyStates += 1;
        await options.onState?.(recorded, state, findings, states);
      },
    );
    if (outcome !== undefined) return { states, scenarios, leakyStates, failure: outcome };
  }
  return { states, scenarios, leakyStates };
}

/** Tables of 262,144 entries are read for every state: a hundred times the work of the others. */
function isSlow({ options }: Scenario): boolean {
  return Number(options.cluster_size ?? 0) >= 2 ** 21;
}

/** Records one scenario and judges up to `count` of its states. Gives the first failure. */
export async function tryScenario(
  scenario: Scenario,
  formats: readonly FormatDriver[],
  seed: number,
  count: number,
  onGood?: (recorded: Recorded, state: CutState, findings: Findings) => Promise<void>,
): Promise<Failure | undefined> {
  let recorded: Recorded;
  try {
    recorded = await record(scenario, formats);
  } catch (error) {
    return { scenario, verdict: `with the power on: ${wordsOf(error)}` };
  }
  const random = new Random(seed);
  for (const state of new PowerCut(recorded.disk).sample(random, count)) {
    const { verdict, findings } = await judgeState(recorded, state.files, state.recipe.tick);
    if (verdict !== undefined) return { scenario, cut: state.recipe, verdict };
    // The states that are hardest to come by are those from which work goes on.
    if (random.chance(0.1)) {
      const recovery = await judgeRecovery(recorded, state.files, state.recipe.tick, random.word());
      if (recovery !== undefined) return { scenario, cut: state.recipe, verdict: recovery };
    }
    if (random.chance(0.02)) {
      const verdict = await judgeSecondCut(recorded, state, random);
      if (verdict !== undefined) return { scenario, cut: state.recipe, verdict };
    }
    await onGood?.(recorded, state, findings!);
  }
  return undefined;
}

/** Repairs a state and works on it, and cuts the power in that. */
async function judgeSecondCut(
  recorded: Recorded,
  state: CutState,
  random: Random,
): Promise<string | undefined> {
  const files = new Map(recorded.disk.files.map(({ name }, i) => [name, state.files[i]!.fork()]));
  const session = await openSession(recorded, files);
  const there = (await listSnapshots(session.image)).map(({ name }) => name);
  for (const taken of recorded.snapshots) {
    if (there.includes(taken.name)) {
      session.snapshots.push({ ...taken, issued: -1, done: -1, deleted: Number.POSITIVE_INFINITY });
    }
  }
  const { format } = recorded.scenario;
  const shape = {
    size: session.image.size,
    grain: unitOf(session.image.layer),
    format,
    dataFile: recorded.scenario.options.data_file !== undefined,
    encrypted: recorded.scenario.options['encrypt.format'] !== undefined,
    backingSize: 0,
    maxSize: 4 * 1024 * 1024,
  };
  const operations: Operation[] = [...drawOperations(random, shape, 4)];
  const { repairs = [] } = abilitiesOf(format);
  if (repairs.length > 0) operations.unshift({ kind: 'repair', repair: random.pick(repairs) });
  try {
    for (const operation of operations) await perform(session, operation);
    await session.image[Symbol.asyncDispose]();
  } catch (error) {
    return `after the cut, ${JSON.stringify(operations)}: ${wordsOf(error)}`;
  }
  for (const second of new PowerCut(session.disk).sample(random, 12)) {
    const { verdict } = await judgeState({ ...session, ends: [] }, second.files, second.recipe.tick);
    if (verdict === undefined) continue;
    return `after ${JSON.stringify(operations)} and a second cut ${JSON.stringify(second.recipe)}: ${verdict}`;
  }
  return undefined;
}
