import { Random } from '../crash/random.ts';
import type { Meter } from './meter.ts';

/** An input of a target, as a plain value: what is printed, and kept as a regression. */
export type Input = unknown;

/** Something that is fed with lies. */
export interface Target {
  readonly name: string;
  /** Its share of the inputs, against the others. */
  readonly share: number;
  /** What was made for the target beforehand, by name (images of other programs). */
  prepare?(files: ReadonlyMap<string, Uint8Array>): Promise<void>;
  draw(random: Random): Input;
  /**
   * Feeds one input. Resolves when all is well: 'accepted', or 'refused' with a typed error. Anything else that
   * it throws is a find.
   */
  run(input: Input, meter: Meter): Promise<'accepted' | 'refused'>;
  /** The input in a form that does not depend on the seeds; default as it is. */
  freeze?(input: Input): Input;
}

/** A promise that does not hold. */
export class Broken extends Error {}

/** Each input is drawn by a generator of its own, so that it can be drawn again without those before it. */
export function drawInput(target: Target, seed: number, index: number): Input {
  return target.draw(new Random(seed * 2 ** 32 + index));
}
