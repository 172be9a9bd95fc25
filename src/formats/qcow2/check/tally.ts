import type { CheckOptions, CheckResult, Finding } from '../../driver.ts';

/** Figures that are counted anew when a stretch of the check is done over. */
export type Found = Pick<CheckResult, 'corruptions' | 'leaks' | 'checkErrors'>;

type Counts = { -readonly [K in keyof CheckResult]-?: number };

/**
 * The running figures of a check, and where findings are told. A message is a line (or lines) in the words that
 * QEMU's users know; what it counts as is said apart from it.
 */
export class Tally {
  readonly counts: Counts = {
    corruptions: 0,
    leaks: 0,
    checkErrors: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
    totalClusters: 0,
    allocatedClusters: 0,
    compressedClusters: 0,
    fragmentedClusters: 0,
    imageEndOffset: 0,
    neededBytes: 0,
  };
  readonly #options: CheckOptions;

  constructor(options: CheckOptions) {
    this.#options = options;
  }

  get repairsLeaks(): boolean {
    return this.#options.repair === 'leaks' || this.repairsErrors;
  }

  get repairsErrors(): boolean {
    return this.#options.repair === 'all';
  }

  /** Whether the space of leaked clusters may go: what is counted up to now are leaks alone. */
  get givesBack(): boolean {
    return this.#options.giveBack === true && this.counts.corruptions + this.counts.checkErrors === 0;
  }

  /** Tells of a finding without counting it. */
  say(
    kind: Finding['kind'],
    message: string,
    place: { offset?: number; fixed?: boolean; reported?: boolean } = {},
  ): void {
    this.#options.onFinding?.({ kind, message, ...place });
  }

  corruption(message: string, offset?: number): void {
    this.counts.corruptions++;
    this.say('corruption', message, { offset });
  }

  /** Something that kept the check from looking. */
  checkError(message: string, offset?: number): void {
    this.counts.checkErrors++;
    this.say('error', message, { offset });
  }

  /** The corruption just counted has been put right. */
  fixedCorruption(): void {
    this.counts.corruptions--;
    this.counts.corruptionsFixed++;
  }

  /** What was found so far, to be put back by `restore` when a stretch of the check is done over. */
  found(): Found {
    const { corruptions, leaks, checkErrors } = this.counts;
    return { corruptions, leaks, checkErrors };
  }

  restore(found: Found): void {
    Object.assign(this.counts, found);
  }

  /** The guest's clusters will be counted anew. */
  forgetClusters(): void {
    this.counts.allocatedClusters = 0;
    this.counts.compressedClusters = 0;
    this.counts.fragmentedClusters = 0;
  }

  progress(done: number, total: number): void {
    this.#options.signal?.throwIfAborted();
    this.#options.onProgress?.(done, total);
  }

  result(): CheckResult {
    return { ...this.counts };
  }
}
