// Every format, in every shape that both programs write, to and from qcow2 and raw.
import { makeDisk } from '../images.mjs';
import { others, qcow2, raw } from './kinds.mjs';
import { pairJob } from './support.mjs';

export const title = 'formats';

export function* jobs(world) {
  const disk = makeDisk(world.folder, world.size);
  for (const other of others) {
    if (!world.has(other.format)) continue;
    for (const plain of [qcow2, raw]) {
      yield pairJob(world, disk, plain, other);
      yield pairJob(world, disk, other, plain);
    }
  }
}
