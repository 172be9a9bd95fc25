import { symlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { build } from 'esbuild';
import type { Find, FuzzOrder, FuzzReport } from './fuzz-worker.ts';
import { cpuTime } from './meter.ts';
import { drawInput } from './target.ts';
import { targets } from './targets/index.ts';

/** Milliseconds of CPU that one input may take before its thread is ended: a loop that asks for nothing. */
const hangTime = 45_000;

/** Bundles the worker, since threads load no TypeScript. Gives its path. */
export async function bundleWorker(folder: string): Promise<string> {
  const outfile = `${folder}/fuzz-worker.mjs`;
  // Where it finds koffi, by which the threads of cow-nbd move bytes.
  symlinkSync(fileURLToPath(new URL('../../node_modules', import.meta.url)), `${folder}/node_modules`);
  await build({
    entryPoints: [fileURLToPath(new URL('./fuzz-worker.ts', import.meta.url))],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    sourcemap: 'inline',
    external: ['koffi'],
    // For packages that are CommonJS inside.
    banner: {
      js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);",
    },
    logLevel: 'error',
  });
  return outfile;
}

/**
 * Feeds inputs in a thread of their own, with a limit on its heap, under a watchdog. A hang, a crash and an
 * exhausted heap are finds like any other, with the input's number, from which it can be drawn again.
 */
export async function runFuzz(
  worker: string,
  order: Omit<FuzzOrder, 'progress' | 'mostFinds'> & { readonly mostFinds?: number },
): Promise<FuzzReport> {
  const progress = new SharedArrayBuffer(4);
  const cell = new Int32Array(progress);
  const lost = async (what: string): Promise<FuzzReport> => {
    // The thread took its input with it: draw it again.
    const index = cell[0]!;
    const target = targets.find(({ name }) => name === order.target)!;
    await target.prepare?.(order.files);
    const input = drawInput(target, order.seed, index);
    const find: Find = {
      target: target.name,
      seed: order.seed,
      index,
      what,
      input,
      frozen: target.freeze?.(input) ?? input,
    };
    return { inputs: index - order.from, accepted: 0, finds: [find] };
  };
  const workerData: FuzzOrder = { mostFinds: 1, ...order, progress };
  const thread = new Worker(worker, {
    workerData,
    execArgv: ['--enable-source-maps'],
    // Sockets are opened by the system's call.
    trackUnmanagedFds: false,
    resourceLimits: { maxOldGenerationSizeMb: 1024 },
  });
  let watchdog: NodeJS.Timeout | undefined;
  try {
    return await new Promise((resolve) => {
      let last = -1;
      let since = cpuTime();
      watchdog = setInterval(() => {
        if (cell[0] !== last) {
          last = cell[0]!;
          since = cpuTime();
        } else if (cpuTime() - since > hangTime) resolve(lost(`no answer in ${hangTime} ms of CPU`));
      }, 500);
      thread.on('message', resolve);
      // After its answer, or with nothing left that could wake it.
      thread.on('exit', () => resolve(lost('the thread ended without an answer')));
      thread.on('error', (error) => resolve(lost(`the thread died: ${error.stack}`)));
    });
  } finally {
    clearInterval(watchdog);
    await thread.terminate();
  }
}
