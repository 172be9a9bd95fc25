// From every format into every other one: hundreds of jobs, so only when asked for (--only pairs).
import { makeDisk } from '../images.mjs';
import { others, qcow2, raw } from './kinds.mjs';
import { pairJob } from './support.mjs';

export const title = 'pairs';
export const onlyWhenAsked = true;

export function* jobs(world) {
  const disk = makeDisk(world.folder, world.size);
  const kinds = [raw, qcow2, ...others].filter(({ format }) => world.has(format));
  for (const from of kinds) {
    for (const to of kinds) {
      // QEMU takes seconds to write grain by grain: no number of rounds changes what comes of that.
      yield { ...pairJob(world, disk, from, to), isWarm: true, rounds: to.grainwise ? 1 : undefined };
    }
  }
}
