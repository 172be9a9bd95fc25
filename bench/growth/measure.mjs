// What a program costs as its work grows: one figure a size, and the power of the size that the cost goes with.
import { timed } from '../process.mjs';

/**
 * @typedef {object} Point
 * @property {number} x the size
 * @property {readonly string[]} argv
 * @property {() => void} [prepare] before each run, not timed
 * @property {() => void} [verify] after each run, not timed; throws when the work was not done right
 *
 * @typedef {object} Curve
 * @property {string} name
 * @property {'bytes' | 'count'} unit of the size
 * @property {'same' | 'linear'} most how the cost may grow
 * @property {string} [folder] where it runs, if not in the world's
 * @property {readonly string[]} start the program doing nothing: its cost is no part of the growth
 * @property {number} [rounds] where the number asked for is too many
 * @property {() => Iterable<Point>} points from the least to the greatest; made as they are asked for
 */

/** What the clock of GNU time, and a heap, do not tell from nothing. */
const floor = { cpu: 0.02, wall: 0.02, peak: 4 };
/** Measured powers of a linear cost scatter so much. */
const tolerance = 0.15;
/** And measured costs of the same thing. */
const sameWithin = 1.3;

/**
 * Runs every point some times and keeps the least of each figure.
 * @param {Curve} curve
 * @param {{ folder: string, rounds: number }} how
 */
export async function trace(curve, { folder: usual, rounds }) {
  const folder = curve.folder ?? usual;
  const count = Math.min(rounds, curve.rounds ?? rounds);
  const start = await least({ argv: curve.start }, Math.max(3, count), folder);
  const points = [];
  for (const point of curve.points()) points.push({ x: point.x, ...(await least(point, count, folder)) });
  const powers = (of) => {
    const telling = points
      .map((point) => ({ x: point.x, cost: point[of] - start[of] }))
      .filter(({ cost }) => cost > floor[of]);
    return { all: powerOf(telling), end: powerOf(telling.slice(-2)) };
  };
  const power = { cpu: powers('cpu'), wall: powers('wall'), peak: powers('peak') };
  return {
    curve: curve.name,
    unit: curve.unit,
    most: curve.most,
    start,
    points,
    power,
    kept: curve.most === 'same' ? isSame(points) : isLinearAtMost(power),
  };
}

async function least(point, rounds, folder) {
  const figures = [];
  for (let round = 0; round < rounds; round++) {
    point.prepare?.();
    figures.push(await timed(point.argv, { cwd: folder }));
    point.verify?.();
  }
  const of = (name) => Math.min(...figures.map((figure) => figure[name]));
  return { wall: of('wall'), cpu: of('cpu'), peak: of('peak') };
}

/** By CPU time: wall time is everybody's on the machine. */
function isSame(points) {
  return ['cpu', 'peak'].every((of) => {
    const figures = points.map((point) => point[of]);
    return Math.max(...figures) <= Math.min(...figures) * sameWithin;
  });
}

/** Over all sizes, and from the last but one to the last, where fixed costs hide the least. */
function isLinearAtMost({ cpu, peak }) {
  return [cpu.all, cpu.end, peak.all, peak.end].every(
    (power) => power === undefined || power <= 1 + tolerance,
  );
}

/**
 * The power p of the least-squares line through log(cost) = p · log(x) + c; undefined for fewer than two points. (Points that
 * cost next to nothing beyond the program's start tell nothing: leave them out.)
 */
export function powerOf(points) {
  if (points.length < 2) return undefined;
  const xs = points.map(({ x }) => Math.log(x));
  const ys = points.map(({ cost }) => Math.log(cost));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x0, y0] = [mean(xs), mean(ys)];
  const products = xs.map((x, index) => (x - x0) * (ys[index] - y0));
  return mean(products) / mean(xs.map((x) => (x - x0) ** 2));
}
