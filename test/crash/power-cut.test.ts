import { describe, expect, it } from 'vitest';
import { formats } from '../../src/formats/index.ts';
import { have, tempDir } from '../support/programs.ts';
import { runCampaign } from './campaign.ts';
import { subjects } from './draw-scenario.ts';
import { judgeRecovery, judgeState } from './judge.ts';
import { explain, minimize } from './minimize.ts';
import { PowerCut } from './power-cut.ts';
import { judgeByQemu } from './qemu-judge.ts';
import { record } from './session.ts';

/** States in all; COWHERD_CRASH_STATES=1000000 for a long run, COWHERD_CRASH_SEED for another one. */
const total = Number(process.env.COWHERD_CRASH_STATES ?? 10_000);
const seed = Number(process.env.COWHERD_CRASH_SEED ?? 1);
/** States that qemu-img judges too: two processes each. */
const sampled = Math.min(200, Math.ceil(total / 100));
const shares = subjects.map(({ share }) => share);
const whole = shares.reduce((sum, share) => sum + share, 0);
const patience = 60_000 + total * 20;

describe('a power cut at any moment leaves an image that opens, has at most leaks, and holds what was flushed', () => {
  for (const [i, subject] of subjects.entries()) {
    const states = Math.ceil((total * shares[i]!) / whole);

    it(`${subject.name}: ${states} states`, { timeout: patience }, async () => {
      const result = await runCampaign({ subject, formats, seed: seed * 1000 + i, states });
      if (result.failure !== undefined) {
        expect.fail(await explain(await minimize(result.failure, formats), formats));
      }
      expect(result.states).toBe(states);
      console.log(
        `${subject.name}: ${result.states} states of ${result.scenarios} sequences, ${result.leakyStates} with leaks`,
      );
    });

    it.skipIf(!have('qemu-img') || subject.qemu === false)(
      `${subject.name}: qemu-img agrees`,
      { timeout: patience },
      async () => {
        await using folder = await tempDir('cowherd-crash-');
        const failures: string[] = [];
        const wanted = Math.ceil((sampled * shares[i]!) / whole);
        await runCampaign({
          subject,
          formats,
          seed: seed * 1000 + 500 + i,
          states: wanted,
          statesPerScenario: 5,
          async onState(recorded, state, findings) {
            const verdict = await judgeByQemu(recorded, state.files, findings, folder);
            if (verdict === undefined) return;
            failures.push(
              await explain({ scenario: recorded.scenario, cut: state.recipe, verdict }, formats),
            );
          },
        });
        expect(failures.slice(0, 1)).toEqual([]);
      },
    );
  }

  it.runIf(process.env.COWHERD_CRASH_RECIPE !== undefined)('the state of COWHERD_CRASH_RECIPE', async () => {
    const { scenario, cut } = JSON.parse(process.env.COWHERD_CRASH_RECIPE!);
    const recorded = await record(scenario, formats);
    if (cut === undefined) return;
    const state = new PowerCut(recorded.disk).replay(cut);
    expect((await judgeState(recorded, state.files, cut.tick)).verdict).toBeUndefined();
    expect(await judgeRecovery(recorded, state.files, cut.tick, 1)).toBeUndefined();
  });
});
