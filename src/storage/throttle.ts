import { DiskError } from '../errors.ts';
import { FilterStore } from './filter-store.ts';
import type { ByteSource } from './store.ts';

/** Limits by QEMU's names, without their prefix `limits.`: `iops-total`, `bps-write-max` … */
export type ThrottleLimits = Readonly<Record<string, number>>;

const units = ['bps', 'iops'] as const;
const directions = ['total', 'read', 'write'] as const;

/** Every limit that there is. */
export const throttleLimitNames: readonly string[] = [
  ...units.flatMap((unit) =>
    directions.flatMap((direction) => {
      const name = `${unit}-${direction}`;
      return [name, `${name}-max`, `${name}-max-length`];
    }),
  ),
  'iops-size',
];

/** QEMU's largest rate. */
const highest = 1e15;

/** A limit as a bucket: it leaks `average` units a second, and may be filled by what is allowed at once. */
interface Bucket {
  readonly average: number;
  readonly room: number;
  level: number;
  at: number;
}

/**
 * Limits that several nodes can share: bytes and requests a second, of reads, of writes and of both, with bursts.
 * Throws `bad-argument` for limits that contradict each other, in QEMU's words.
 */
export class ThrottleGroup {
  readonly #buckets = new Map<string, Bucket>();
  readonly #requestBytes: number;
  readonly #now: () => number;
  #last: Promise<void> = Promise.resolve();

  constructor(limits: ThrottleLimits = {}, now: () => number = () => performance.now()) {
    checkLimits(limits);
    this.#now = now;
    this.#requestBytes = limits['iops-size'] ?? 0;
    for (const unit of units) {
      for (const direction of directions) {
        const average = limits[`${unit}-${direction}`] ?? 0;
        if (average === 0) continue;
        const most = limits[`${unit}-${direction}-max`] ?? 0;
        // A burst of a second (or as long as is said) at the higher rate; without one, a tenth of a second.
        const room = most > 0 ? most * (limits[`${unit}-${direction}-max-length`] ?? 1) : average / 10;
        this.#buckets.set(`${unit}-${direction}`, { average, room, level: 0, at: now() });
      }
    }
  }

  /** Waits until a request of so many bytes may be made. Requests go in the order of their coming. */
  pass(direction: 'read' | 'write', bytes: number): Promise<void> {
    if (this.#buckets.size === 0) return Promise.resolve();
    const turn = this.#last.then(() => this.#wait(direction, bytes));
    this.#last = turn;
    return turn;
  }

  async #wait(direction: 'read' | 'write', bytes: number): Promise<void> {
    const requests = this.#requestBytes > 0 ? Math.max(1, bytes / this.#requestBytes) : 1;
    let pause = 0;
    for (const [unit, amount] of [
      ['bps', bytes],
      ['iops', requests],
    ] as const) {
      for (const which of ['total', direction]) {
        const bucket = this.#buckets.get(`${unit}-${which}`);
        if (!bucket) continue;
        const now = this.#now();
        bucket.level = Math.max(0, bucket.level - ((now - bucket.at) / 1000) * bucket.average);
        bucket.at = now;
        // What is over the brim must have leaked before the request goes.
        pause = Math.max(pause, ((bucket.level - bucket.room) / bucket.average) * 1000);
        bucket.level += amount;
      }
    }
    if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function checkLimits(limits: ThrottleLimits): void {
  const of = (name: string) => limits[name] ?? 0;
  for (const unit of units) {
    for (const suffix of ['', '-max']) {
      if (
        of(`${unit}-total${suffix}`) > 0 &&
        of(`${unit}-read${suffix}`) + of(`${unit}-write${suffix}`) > 0
      ) {
        throw refusal('bps/iops/max total values and read/write values cannot be used at the same time');
      }
    }
  }
  const anyRequests = directions.some((direction) => of(`iops-${direction}`) > 0);
  if (of('iops-size') > 0 && !anyRequests) throw refusal('iops size requires an iops value to be set');
  for (const unit of units) {
    for (const direction of directions) checkBucket(`${unit}-${direction}`, of, limits);
  }
}

function checkBucket(name: string, of: (name: string) => number, limits: ThrottleLimits): void {
  const length = limits[`${name}-max-length`] ?? 1;
  if (of(name) < 0 || of(`${name}-max`) < 0 || of(name) > highest || of(`${name}-max`) > highest) {
    throw refusal(`bps/iops/max values must be within [0, ${highest}]`);
  }
  if (length === 0) throw refusal('the burst length cannot be 0');
  if (length > 1 && of(`${name}-max`) === 0) throw refusal('burst length set without burst rate');
  if (of(`${name}-max`) > 0 && of(name) === 0)
    throw refusal('bps_max/iops_max require corresponding bps/iops values');
  if (of(`${name}-max`) > 0 && of(`${name}-max`) < of(name)) {
    throw refusal('bps_max/iops_max cannot be lower than bps/iops');
  }
}

function refusal(message: string): DiskError {
  return new DiskError('bad-argument', message, { field: 'limits' });
}

/** A store whose requests wait for the limits of its group. */
export class ThrottledStore extends FilterStore {
  readonly #group: ThrottleGroup;

  constructor(inner: ByteSource, group: ThrottleGroup) {
    super(inner);
    this.#group = group;
  }

  override async read(at: number, into: Uint8Array): Promise<void> {
    await this.#group.pass('read', into.length);
    return super.read(at, into);
  }

  override async write(at: number, from: Uint8Array): Promise<void> {
    await this.#group.pass('write', from.length);
    return super.write(at, from);
  }

  override async zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    await this.#group.pass('write', length);
    return super.zero(at, length, options);
  }
}
