import { labOf } from '../lab.ts';
import { prepareUp } from '../prepare.ts';
import type { Runner } from '../runner/runner.ts';
import type { LabSpec } from '../spec/load.ts';
import { releaseFormer } from '../standing/former.ts';
import { writeState } from '../state.ts';
import { applyDefinitions } from '../up.ts';

export interface ChangeOverOptions {
  readonly runner: Runner;
  readonly signal?: AbortSignal;
}

/** Seats whose disks stand on something else now get their definitions; masters that nobody stands on are given back. */
export async function changeOver(
  spec: LabSpec,
  seats: readonly string[],
  options: ChangeOverOptions,
): Promise<void> {
  const lab = labOf(spec);
  const { plan, after } = await prepareUp(lab, { runner: options.runner });
  await applyDefinitions(
    lab,
    plan.steps.filter((step) => 'seat' in step && seats.includes(step.seat)),
    options,
  );
  if (!lab.state || !after) return;
  const { former: before, ...rest } = lab.state;
  if (JSON.stringify(before) === JSON.stringify(after.former)) return;
  const next = after.former ? { ...rest, former: after.former } : rest;
  await releaseFormer(lab, lab.state, next);
  writeState(lab.pool, next);
}

/**
 * Before a seat's disk comes to stand on something else: its definition leaves it to the hypervisor to read the chain, and so
 * is right for the disk that is there and for the one that comes.
 */
export async function loosenDefinition(
  spec: LabSpec,
  seat: string,
  options: ChangeOverOptions,
): Promise<void> {
  const lab = labOf(spec);
  const { plan } = await prepareUp(lab, { runner: options.runner, loose: new Set([seat]) });
  await applyDefinitions(
    lab,
    plan.steps.filter((step) => 'seat' in step && step.seat === seat),
    options,
  );
}
