// Memory and time over a disk of 64 TiB, of which little is used.
import { copyFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { quietly } from '../process.mjs';
import { changing } from './metadata.mjs';
import { convertJob } from './support.mjs';

export const title = 'huge';

const GiB = 1024 ** 3;
const TiB = 1024 ** 4;

/** An image of two bitmaps with 4,000 marks each. */
function makeMarked(folder, image) {
  if (existsSync(join(folder, image))) return;
  quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', image, `${64 * TiB}`], folder);
  for (const [name, from] of [
    ['first', 0],
    ['second', GiB],
  ]) {
    quietly(['qemu-img', 'bitmap', '--add', '-g', '64k', image, name], folder);
    const writes = Array.from({ length: 4000 }, (_, index) => [
      '-c',
      `write -q -z ${from + index * 16 * GiB} 64k`,
    ]);
    quietly(['qemu-io', '-f', 'qcow2', ...writes.flat(), image], folder);
  }
}

export function* jobs(world) {
  const { folder } = world;
  const image = 'huge.qcow2';
  const options = 'cluster_size=2M';
  if (!existsSync(join(folder, image))) {
    quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, image, `${64 * TiB}`], folder);
    const writes = Array.from({ length: 64 }, (_, index) => ['-c', `write -q -P ${index + 1} ${index}T 1M`]);
    quietly(['qemu-io', '-f', 'qcow2', ...writes.flat(), image], folder);
  }
  const goal = { peak: 150 };
  const reading = (name, args) => ({
    name: `${name}, 64 TiB`,
    goal,
    ours: { name: 'cow-img', argv: [...world.cowImg, ...args] },
    peers: [{ name: 'qemu-img', argv: ['qemu-img', ...args] }],
  });
  yield reading('info', ['info', image]);
  yield reading('map', ['map', '--output', 'json', image]);
  yield reading('check', ['check', image]);
  yield reading('measure', ['measure', '-O', 'qcow2', image]);
  const args = ['-O', 'qcow2', '-o', options];
  yield convertJob(world, {
    name: 'convert, 64 TiB',
    goal,
    from: image,
    to: 'qcow2',
    args,
  });
  const marked = 'huge-bitmaps.qcow2';
  makeMarked(folder, marked);
  yield changing(
    world,
    'bitmap --merge, 64 TiB',
    { ...goal, wall: 0.9 },
    (file) => copyFileSync(join(folder, marked), join(folder, file)),
    (file) => ['bitmap', '--merge', 'second', file, 'first'],
    (file) => {
      if (!quietly(['qemu-img', 'info', file], folder).includes('first'))
        throw new Error('the bitmap is gone');
    },
  );
}
