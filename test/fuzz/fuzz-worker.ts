import { parentPort, workerData } from 'node:worker_threads';
import { Meter } from './meter.ts';
import { drawInput } from './target.ts';
import { targets } from './targets/index.ts';

/** What the worker is told to do. */
export interface FuzzOrder {
  readonly target: string;
  readonly seed: number;
  /** Inputs [from, to). */
  readonly from: number;
  readonly to: number;
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** One 32-bit cell: the input that is being fed, for the watchdog. */
  readonly progress: SharedArrayBuffer;
  /** Stop after so many finds. */
  readonly mostFinds: number;
}

export interface Find {
  readonly target: string;
  readonly seed: number;
  readonly index: number;
  readonly what: string;
  readonly input: unknown;
  /** The input in a form that does not depend on seeds: for a regression file. */
  readonly frozen: unknown;
}

export interface FuzzReport {
  readonly inputs: number;
  readonly accepted: number;
  readonly finds: readonly Find[];
}

async function work(order: FuzzOrder): Promise<FuzzReport> {
  const target = targets.find(({ name }) => name === order.target)!;
  await target.prepare?.(order.files);
  const progress = new Int32Array(order.progress);
  const meter = new Meter();
  meter.install();
  const finds: Find[] = [];
  let accepted = 0;
  let index = order.from;
  for (; index < order.to && finds.length < order.mostFinds; index += 1) {
    const input = drawInput(target, order.seed, index);
    Atomics.store(progress, 0, index);
    meter.begin();
    let failed: unknown;
    try {
      if ((await target.run(input, meter)) === 'accepted') accepted += 1;
      meter.checkTime();
    } catch (error) {
      failed = error;
    }
    failed = meter.exceeded ?? failed;
    if (failed === undefined) continue;
    meter.begin();
    finds.push({
      target: target.name,
      seed: order.seed,
      index,
      what: failed instanceof Error ? `${failed.stack}` : String(failed),
      input,
      frozen: target.freeze?.(input) ?? input,
    });
  }
  return { inputs: index - order.from, accepted, finds };
}

if (parentPort !== null) parentPort.postMessage(await work(workerData as FuzzOrder));
