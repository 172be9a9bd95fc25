// Two ways of doing one job, timed in turn in one run: A B, B A, … so that a drifting machine slows both.
import { performance } from 'node:perf_hooks';

/** The middle, least and greatest of some figures. */
export function spread(figures) {
  const sorted = [...figures].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const median =
    sorted.length % 2 === 1 ? sorted[Math.floor(middle)] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, min: sorted[0], max: sorted[sorted.length - 1] };
}

/**
 * Runs `ours` and `peer` in pairs. Each is `{ prepare?(), run(), verify?() }`; only `run` is timed, and `verify` throws
 * when the work was not done right. One pair is run first and not counted.
 * @returns wall milliseconds of each, and the ratio ours/peer pair by pair
 */
export async function paired(ours, peer, { rounds }) {
  const times = { ours: [], peer: [], ratio: [] };
  for (let round = 0; round <= rounds; round++) {
    const pair = {};
    for (const name of round % 2 === 0 ? ['ours', 'peer'] : ['peer', 'ours']) {
      const side = name === 'ours' ? ours : peer;
      await side.prepare?.();
      const started = performance.now();
      await side.run();
      pair[name] = performance.now() - started;
      await side.verify?.();
    }
    if (round === 0) continue;
    times.ours.push(pair.ours);
    times.peer.push(pair.peer);
    times.ratio.push(pair.ours / pair.peer);
  }
  return { ours: spread(times.ours), peer: spread(times.peer), ratio: spread(times.ratio) };
}
