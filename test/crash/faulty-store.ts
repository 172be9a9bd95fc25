import { DiskError } from '../../src/errors.ts';
import { type FaultAnswer, type Faults, type StoreOperation, sectorSize } from './recording-store.ts';

/** What goes wrong with a disk, as a file store reports it. */
export type FaultKind = 'ENOSPC' | 'EIO';

/** Operations that can fail so: a full disk fails what needs space, a broken one fails anything. */
const failing: Readonly<Record<FaultKind, readonly StoreOperation['kind'][]>> = {
  ENOSPC: ['write', 'zero', 'resize'],
  EIO: ['read', 'write', 'zero', 'resize', 'flush', 'extent'],
};

export interface FaultPlan {
  readonly kind: FaultKind;
  /** Which of the operations that can fail so, from 0. Infinity: none, to count them. */
  readonly at: number;
  /** `once`: that one. `until cleared`: that one and all after it. */
  readonly lasts: 'once' | 'until cleared';
  /** The share of a failing write that reaches the disk all the same. */
  readonly partial: number;
}

/** Makes operations of a recording disk fail by plan. */
export class PlannedFaults implements Faults {
  /** Operations so far that could fail so. */
  seen = 0;
  /** What failed, for messages. */
  readonly hit: StoreOperation[] = [];
  private cleared = false;

  constructor(private readonly plan: FaultPlan) {}

  /** The disk works from now on. */
  clear(): void {
    this.cleared = true;
  }

  before(operation: StoreOperation): FaultAnswer | undefined {
    if (!failing[this.plan.kind].includes(operation.kind)) return undefined;
    const index = this.seen;
    this.seen += 1;
    const fails = this.plan.lasts === 'once' ? index === this.plan.at : index >= this.plan.at;
    if (!fails || this.cleared) return undefined;
    this.hit.push(operation);
    const code = this.plan.kind === 'ENOSPC' ? 'out-of-space' : 'io';
    const error = new DiskError(code, `${operation.kind} failed by plan`, {
      path: operation.file,
      offset: operation.at,
      detail: { errno: this.plan.kind },
    });
    // Whole sectors of the disk, like anything that it writes.
    const end = operation.at + operation.length * this.plan.partial;
    return { error, partial: Math.max(0, end - (end % sectorSize) - operation.at) };
  }
}
