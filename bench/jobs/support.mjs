// What jobs share: how our program is called, and what proves that a target is right.
import { mkdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { quietly } from '../process.mjs';
import { imageOf } from './kinds.mjs';

/**
 * @typedef {object} World
 * @property {string} folder where the images are; commands run there
 * @property {number} size guest bytes of the realistic disk
 * @property {readonly string[]} cowImg how our program is started
 * @property {readonly string[]} cowherd
 * @property {(format: string) => boolean} has whether we have the format
 */

/** In a folder of its own, since some images are several files. */
const targetOf = (side) => `out-${side.name.replaceAll(/[^a-z0-9]+/gi, '-')}/disk.img`;

/**
 * A job that makes a new file from `source`: by `cow-img convert` and by `qemu-img convert`, with and without
 * `-W -m 8`. Removes the target before each run, and lets qemu-img compare and check it after.
 */
export function convertJob(
  world,
  { name, goal, from, to, args = [], peerArgs = [[], ['-W', '-m', '8']], compare },
) {
  const { folder } = world;
  const side = (label, program, extra) => {
    const target = targetOf({ name: label });
    return { name: label, target, argv: [...program, 'convert', ...extra, ...args, from, target] };
  };
  const remove = ({ target }) => rmSync(join(folder, dirname(target)), { recursive: true, force: true });
  return {
    name,
    goal,
    folder,
    ours: side('cow-img', world.cowImg, []),
    peers: peerArgs.map((extra) => side(['qemu-img', ...extra].join(' '), ['qemu-img'], extra)),
    prepare(one) {
      remove(one);
      mkdirSync(join(folder, dirname(one.target)));
    },
    verify(one) {
      quietly(['qemu-img', 'compare', '-q', ...(compare ?? []), from, one.target], folder);
      if (to === 'qcow2') quietly(['qemu-img', 'check', '-q', one.target], folder);
      remove(one);
    },
  };
}

/** Converts the content of the raw image `disk` from one kind (kinds.mjs) into another. */
export function pairJob(world, disk, from, to) {
  return convertJob(world, {
    name: `${from.name} → ${to.name}`,
    goal: { wall: 0.9 },
    from: from.format === 'raw' ? disk : imageOf(world.folder, disk, from),
    to: to.format,
    args: [...from.open, ...to.args],
    compare: [...from.open, '-F', to.format],
  });
}
