// What jobs share: how our program is called, and what proves that a target is right.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { quietly } from '../process.mjs';

/**
 * @typedef {object} World
 * @property {string} folder where the images are; commands run there
 * @property {number} size guest bytes of the realistic disk
 * @property {readonly string[]} cowImg how our program is started
 * @property {readonly string[]} cowherd
 * @property {(format: string) => boolean} has whether we have the format
 */

const targetOf = (side) => `out-${side.name.replaceAll(/[^a-z0-9]+/gi, '-')}`;

/**
 * A job that makes a new file from `source`: by `cow-img convert` and by `qemu-img convert`, with and without
 * `-W -m 8`. Removes the target before each run, and lets qemu-img compare and check it after.
 */
export function convertJob(
  world,
  { name, goal, from, to, args = [], peerArgs = [[], ['-W', '-m', '8']], writes, compare },
) {
  const { folder } = world;
  const side = (label, program, extra) => {
    const target = targetOf({ name: label });
    return { name: label, target, argv: [...program, 'convert', ...extra, ...args, from, target] };
  };
  const remove = ({ target }) => rmSync(join(folder, target), { force: true });
  return {
    name,
    goal,
    folder,
    writes: writes ?? world.size * 0.45,
    ours: side('cow-img', world.cowImg, []),
    peers: peerArgs.map((extra) => side(['qemu-img', ...extra].join(' '), ['qemu-img'], extra)),
    prepare: remove,
    verify(one) {
      quietly(['qemu-img', 'compare', '-q', ...(compare ?? []), from, one.target], folder);
      if (to === 'qcow2') quietly(['qemu-img', 'check', '-q', one.target], folder);
      remove(one);
    },
  };
}
