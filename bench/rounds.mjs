// Ways of doing one job, timed in turn in one run: a machine that drifts slows them all.
import { fillFreeMemory } from './memory.mjs';
import { isStopped, timed } from './process.mjs';

/** The middle, least and greatest of some figures. */
export function spread(figures) {
  const sorted = [...figures].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const median =
    sorted.length % 2 === 1 ? sorted[Math.floor(middle)] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, min: sorted[0], max: sorted[sorted.length - 1] };
}

/**
 * @typedef {object} Side
 * @property {string} name
 * @property {readonly string[]} argv
 * @property {string} [input] for standard input
 * @property {(output: string) => number} [seconds] what the command says that it took; then that counts
 * @property {() => number} [cpu] seconds that a server has used, whose client `argv` is: then those count
 *
 * @typedef {object} Job
 * @property {string} name
 * @property {{ wall?: number, cpu?: number, peak?: number }} [goal] ratios to the peer at most; `peak` in MiB
 * @property {Side} ours
 * @property {readonly Side[]} peers one or several settings of the peer: the one with the least median counts
 * @property {string} [folder] where it runs, if not in the world's
 * @property {number} [rounds] where the number asked for is too many
 * @property {boolean} [isWarm] programs and caches are warm from the job before: the first round counts
 * @property {(side: Side) => void} [prepare] before each run, not timed
 * @property {(side: Side) => void} [verify] after each run, not timed; throws when the work was not done right
 */

/**
 * Runs all sides of a job in rounds, in shuffled order within each. A round that is not counted comes first. A setting of
 * the peer that fails is left out, as long as there is another.
 * @param {Job} job
 * @param {{ folder: string, rounds: number }} how
 */
export async function measure(job, { folder: usual, rounds }) {
  const folder = job.folder ?? usual;
  const sides = [job.ours, ...job.peers];
  const runs = sides.map(() => []);
  const failed = new Set();
  const run = async (side) => {
    job.prepare?.(side);
    fillFreeMemory();
    const before = side.cpu?.() ?? 0;
    const figures = await timed(side.argv, { cwd: folder, input: side.input, seconds: side.seconds });
    if (side.cpu) figures.cpu = side.cpu() - before;
    job.verify?.(side);
    return figures;
  };
  for (let round = job.isWarm ? 1 : 0; round <= Math.min(rounds, job.rounds ?? rounds); round++) {
    for (const index of shuffled(sides.length)) {
      if (failed.has(index)) continue;
      try {
        const figures = await run(sides[index]);
        if (round > 0) runs[index].push(figures);
      } catch (error) {
        if ((await isStopped()) || index === 0 || failed.size + 1 === job.peers.length) throw error;
        failed.add(index);
        console.error(`${job.name}: without '${sides[index].name}', which fails: ${error.message}`);
      }
    }
  }
  const [ours, ...peers] = runs;
  const medians = peers.map((peer, index) =>
    failed.has(index + 1) ? Number.POSITIVE_INFINITY : spread(peer.map(({ wall }) => wall)).median,
  );
  const best = medians.indexOf(Math.min(...medians));
  const ratio = (of) => spread(ours.map((figures, round) => of(figures) / of(peers[best][round])));
  const absolute = (figures) => ({
    wall: spread(figures.map(({ wall }) => wall)),
    cpu: spread(figures.map(({ cpu }) => cpu)),
    peak: spread(figures.map(({ peak }) => peak)),
  });
  return {
    job: job.name,
    goal: job.goal ?? {},
    peer: job.peers[best].name,
    wall: ratio(({ wall }) => wall),
    // GNU time counts in hundredths: a run of none would divide by zero.
    cpu: ratio(({ cpu }) => Math.max(cpu, 0.01)),
    ours: absolute(ours),
    theirs: absolute(peers[best]),
  };
}

function shuffled(count) {
  const order = Array.from({ length: count }, (_, index) => index);
  for (let index = count - 1; index > 0; index--) {
    const other = Math.floor(Math.random() * (index + 1));
    [order[index], order[other]] = [order[other], order[index]];
  }
  return order;
}
