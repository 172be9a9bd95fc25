// How time and memory grow with the size of a disk, its data, its clusters, the length of a chain, and the number of seats.
import { randomFillSync } from 'node:crypto';
import { closeSync, existsSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { GiB, MiB } from '../images.mjs';
import { quietly } from '../process.mjs';
import { labName, place, verifyOverlays, writeLab } from './many.mjs';

export const title = 'growth';

/** @returns {import('../growth/measure.mjs').Curve[]} */
export function curves(world) {
  return [...byVirtualSize(world), ...byClusters(world), ...byChain(world), ...bySeats(world), byData(world)];
}

/** One command of `cow-img` over images of growing size; `made` gives the image of a size. */
function reading(world, name, args, { most = 'linear', unit, sizes, made, rounds }) {
  return {
    name,
    unit,
    most,
    rounds,
    start: [...world.cowImg, '--version'],
    *points() {
      for (const x of sizes) yield { x, argv: [...world.cowImg, ...args(made(x))] };
    },
  };
}

/** The same, into a new image that qemu-img finds equal. */
function converting(world, name, from) {
  const target = 'grown.img';
  const { made } = from;
  const curve = reading(world, name, (image) => ['convert', '-O', 'qcow2', image, target], from);
  const remove = () => rmSync(join(world.folder, target), { force: true });
  return {
    ...curve,
    *points() {
      for (const point of curve.points()) {
        const verify = () => {
          quietly(['qemu-img', 'compare', '-q', made(point.x), target], world.folder);
          remove();
        };
        yield { ...point, verify };
      }
    },
  };
}

/** An image of its own for each size, kept for the next curve. */
function once(folder, prefix, make) {
  return (x) => {
    const name = `${prefix}-${x}.qcow2`;
    if (!existsSync(join(folder, name))) make(name, x);
    return name;
  };
}

/** Always 64 pieces of 1 MiB, evenly over the disk. */
function byVirtualSize(world) {
  const { folder } = world;
  const made = once(folder, 'wide', (name, size) => {
    quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', name, String(size)], folder);
    const writes = Array.from({ length: 64 }, (_, i) => ['-c', `write -q -P 7 ${(i * size) / 64} 1M`]);
    quietly(['qemu-io', '-f', 'qcow2', ...writes.flat(), name], folder);
  });
  const from = { unit: 'bytes', sizes: [1, 32, 1024, 8192, 65536].map((gibi) => gibi * GiB), made };
  return [
    reading(world, 'info by virtual size', (image) => ['info', image], { ...from, most: 'same', rounds: 7 }),
    reading(world, 'map by virtual size', (image) => ['map', '--output', 'json', image], from),
    reading(world, 'check by virtual size', (image) => ['check', image], from),
    converting(world, 'convert by virtual size', from),
  ];
}

/** Nothing but tables: qemu-img's preallocation of 4 KiB clusters. */
function byClusters(world) {
  const { folder } = world;
  const made = once(folder, 'clusters', (name, clusters) => {
    const options = 'cluster_size=4k,preallocation=metadata';
    quietly(
      ['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, name, String(clusters * 4096)],
      folder,
    );
  });
  const sizes = [1e4, 1e5, 1e6, 1e7, ...(world.long ? [1e8] : [])];
  const from = { unit: 'count', sizes, made };
  return [
    reading(world, 'info by clusters', (image) => ['info', image], { ...from, most: 'same', rounds: 7 }),
    reading(world, 'check by clusters', (image) => ['check', image], from),
    reading(world, 'map by clusters', (image) => ['map', '--output', 'json', image], from),
  ];
}

/** Every image holds one 1 MiB of its own. */
function byChain(world) {
  const { folder } = world;
  const made = once(folder, 'chain', (name, depth) => {
    const backing = depth === 1 ? [] : ['-b', made(depth - 1), '-F', 'qcow2'];
    quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', ...backing, name, '1G'], folder);
    quietly(['qemu-io', '-f', 'qcow2', '-c', `write -q -P ${depth} ${depth * 4 * MiB} 1M`, name], folder);
  });
  const from = { unit: 'count', sizes: [1, 4, 16, 64], made };
  return [
    reading(world, 'info --backing-chain by length', (image) => ['info', '--backing-chain', image], from),
    reading(world, 'map by length of chain', (image) => ['map', '--output', 'json', image], from),
    converting(world, 'convert by length of chain', from),
  ];
}

/** Every run of `up` fills a pool of its own. */
function bySeats(world) {
  const { cowherd } = world;
  const folder = place(world, 'seats');
  const curve = (name, verb, around) => ({
    name,
    unit: 'count',
    most: 'linear',
    rounds: 2,
    folder,
    start: [...cowherd, '--version'],
    *points() {
      for (const seats of [10, 100, 1000, 10_000])
        yield { x: seats, argv: [...cowherd, ...verb(seats)], ...around(seats) };
    },
  });
  let pool;
  const verify = (seats) => () => verifyOverlays(folder, pool, seats);
  return [
    curve(
      'up by seats',
      (seats) => ['up', labName(seats)],
      (seats) => ({
        prepare() {
          pool = writeLab(folder, seats);
        },
        verify: verify(seats),
      }),
    ),
    curve(
      'reset by seats',
      (seats) => ['reset', labName(seats), 'all'],
      (seats) => {
        pool = writeLab(folder, seats);
        quietly([...cowherd, 'up', labName(seats)], folder);
        return { verify: verify(seats) };
      },
    ),
  ];
}

/** One disk that grows from point to point, nothing of it zero. */
function byData(world) {
  const { folder } = world;
  const name = 'data.raw';
  const path = join(folder, name);
  const made = (size) => {
    const file = openSync(path, 'a');
    const chunk = randomFillSync(Buffer.alloc(MiB));
    for (let at = statSync(path).size; at < size; at += MiB) {
      chunk.writeBigUInt64LE(BigInt(at));
      writeSync(file, chunk);
    }
    closeSync(file);
    return name;
  };
  const sizes = [1, 2, 4, 8, ...(world.long ? [16, 32, 64] : [])].map((gibi) => gibi * GiB);
  const curve = converting(world, 'raw → qcow2 by data', { unit: 'bytes', sizes, made, rounds: 2 });
  return {
    ...curve,
    *points() {
      yield* curve.points();
      rmSync(path);
    },
  };
}
