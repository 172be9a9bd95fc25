/** What one input may cost before it counts as a find. */
export interface Limits {
  /** Bytes of typed arrays made, all together. */
  readonly allocation: number;
  /** Requests to the store. */
  readonly requests: number;
  /** Milliseconds of the process's CPU time, after as many by the clock: the machine may be busy. */
  readonly time: number;
}

export const defaultLimits: Limits = { allocation: 1.5e9, requests: 400_000, time: 7_500 };

/** An input cost more than it may: never an answer, always a find. */
export class OverLimit extends Error {}

/** Milliseconds of CPU that the process has used. */
export function cpuTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Counts what the code under test asks for, and stops it where it asks for too much. */
export class Meter {
  allocated = 0;
  requests = 0;
  /** Why the input is a find, also when the code under test has caught the error. */
  exceeded: OverLimit | undefined;
  private started = 0;
  /** CPU time when the input had run for `time` by the clock: only from then on is it asked for, since asking is dear. */
  private slowSince: number | undefined;

  constructor(private readonly limits: Limits = defaultLimits) {}

  begin(): void {
    this.allocated = 0;
    this.requests = 0;
    this.exceeded = undefined;
    this.started = performance.now();
    this.slowSince = undefined;
  }

  request(): void {
    this.requests += 1;
    if (this.requests > this.limits.requests) throw this.over(`more than ${this.limits.requests} requests`);
    if (this.requests % 64 === 0) this.checkTime();
  }

  /** After the input; and on the way, at each request. A loop without requests is the watchdog's. */
  checkTime(): void {
    if (performance.now() - this.started < this.limits.time) return;
    this.slowSince ??= cpuTime();
    const spent = cpuTime() - this.slowSince;
    if (spent > this.limits.time) throw this.over(`more than ${Math.round(spent)} ms of CPU`);
  }

  private over(message: string): OverLimit {
    this.exceeded ??= new OverLimit(message);
    return this.exceeded;
  }

  /**
   * Puts counters in the place of the global typed array constructors, for the life of the thread. (Whoever
   * allocates in small steps of its own is caught by the thread's heap limit.)
   */
  install(): void {
    const globals = globalThis as unknown as Record<string, unknown>;
    for (const name of [
      'Uint8Array',
      'Uint16Array',
      'Uint32Array',
      'Int32Array',
      'Float64Array',
      'BigUint64Array',
      'ArrayBuffer',
    ]) {
      const real = globals[name] as { new (...args: unknown[]): object; BYTES_PER_ELEMENT?: number };
      const unit = real.BYTES_PER_ELEMENT ?? 1;
      const counting = new Proxy(real, {
        construct: (target, args, newTarget) => {
          const length = typeof args[0] === 'number' ? args[0] : 0;
          this.allocated += length * unit;
          if (this.allocated > this.limits.allocation) {
            throw this.over(`allocates ${this.allocated} bytes (the last ${length * unit})`);
          }
          // With the counter itself as its constructor, each array would get a hidden class of its own: slow ever after.
          return Reflect.construct(target, args, newTarget === counting ? target : newTarget);
        },
      }) as typeof real;
      globals[name] = counting;
    }
  }
}
