// Verbs that read tables more than data.
import { copyFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { derive, GiB, makeChain, makeDisk } from '../images.mjs';
import { quietly } from '../process.mjs';

export const title = 'metadata';

/** The same arguments for both programs, on images that neither changes. */
function reading(world, name, goal, args, rounds) {
  return {
    name,
    goal,
    rounds,
    ours: { name: 'cow-img', argv: [...world.cowImg, ...args] },
    peers: [{ name: 'qemu-img', argv: ['qemu-img', ...args] }],
  };
}

/** Both programs change a fresh copy of `template`; `verify` says whether the copy is right. */
export function changing(world, name, goal, template, args, verify) {
  const { folder } = world;
  const side = (label, program) => ({
    name: label,
    file: `change-${label}.qcow2`,
    argv: [...program, ...args(`change-${label}.qcow2`)],
  });
  return {
    name,
    goal,
    ours: side('cow-img', world.cowImg),
    peers: [side('qemu-img', ['qemu-img'])],
    prepare({ file }) {
      template(file);
      // Both flush what they change: not the making of it.
      quietly(['sync', '-f', file], folder);
    },
    verify({ file }) {
      verify(file);
      quietly(['qemu-img', 'check', '-q', file], folder);
    },
  };
}

export function* jobs(world) {
  const { folder, size } = world;
  const raw = makeDisk(folder, size);
  const qcow2 = derive(folder, raw, 'disk.qcow2', ['-O', 'qcow2']);

  const wide = 'clusters.qcow2';
  if (!existsSync(join(folder, wide))) {
    const options = 'cluster_size=4k,preallocation=metadata';
    quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, wide, `${32 * GiB}`], folder);
  }
  yield reading(world, 'check, 8 million clusters', { wall: 0.5 }, ['check', wide]);
  yield reading(world, 'map, 8 million clusters', { wall: 0.8 }, ['map', '--output', 'json', wide]);
  yield reading(world, 'map', { wall: 0.8 }, ['map', '--output', 'json', qcow2]);
  yield reading(world, 'measure, 8 million clusters', { wall: 0.9 }, ['measure', '-O', 'qcow2', wide]);
  yield reading(world, 'measure', { wall: 0.9 }, ['measure', '-O', 'qcow2', qcow2]);
  yield reading(world, 'compare with raw', { wall: 0.9 }, [
    'compare',
    '-f',
    'raw',
    '-F',
    'qcow2',
    raw,
    qcow2,
  ]);

  makeChain(folder, qcow2, size);
  // An overlay over a base that commit may change.
  const base = (name) => `base-of-${name}`;
  const commit = (name, overlay) =>
    changing(
      world,
      name,
      { wall: 0.9 },
      (file) => {
        copyFileSync(join(folder, qcow2), join(folder, base(file)));
        copyFileSync(join(folder, overlay), join(folder, file));
        quietly(['qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', base(file), file], folder);
      },
      (file) => ['commit', '-q', file],
      (file) => quietly(['qemu-img', 'compare', '-q', overlay, base(file)], folder),
    );
  yield commit('commit of a seventieth of the disk', 'chain-1.qcow2');
  const large = 'large-overlay.qcow2';
  if (!existsSync(join(folder, large))) {
    quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', qcow2, '-F', 'qcow2', large], folder);
    quietly(['qemu-io', '-f', 'qcow2', '-c', `write -q -P 77 0 ${size / 4}`, large], folder);
  }
  yield commit('commit of a quarter of the disk', large);
  const top = (file) => copyFileSync(join(folder, 'chain-3.qcow2'), join(folder, file));
  yield changing(
    world,
    'rebase (safe), 3 images down',
    { wall: 0.9 },
    top,
    (file) => ['rebase', '-F', 'qcow2', '-b', qcow2, file],
    (file) => quietly(['qemu-img', 'compare', '-q', 'chain-3.qcow2', file], folder),
  );

  const over = 'over-large.qcow2';
  if (!existsSync(join(folder, over)))
    quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', large, '-F', 'qcow2', over], folder);
  yield changing(
    world,
    'rebase (safe) of a quarter of the disk',
    { wall: 0.9 },
    (file) => copyFileSync(join(folder, over), join(folder, file)),
    (file) => ['rebase', '-F', 'qcow2', '-b', qcow2, file],
    (file) => quietly(['qemu-img', 'compare', '-q', over, file], folder),
  );

  const marked = 'bitmaps.qcow2';
  if (!existsSync(join(folder, marked))) {
    quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', marked, `${1024 * GiB}`], folder);
    quietly(['qemu-img', 'bitmap', '--add', '-g', '64k', marked, 'first'], folder);
    const writes = (from) =>
      Array.from({ length: 400 }, (_, index) => ['-c', `write -q ${from + index * 2.5 * GiB} 64k`]).flat();
    quietly(['qemu-io', '-f', 'qcow2', ...writes(0), marked], folder);
    quietly(['qemu-img', 'bitmap', '--add', '-g', '64k', marked, 'second'], folder);
    quietly(['qemu-io', '-f', 'qcow2', ...writes(GiB), marked], folder);
  }
  yield changing(
    world,
    'bitmap --merge, 1 TiB',
    { wall: 0.9 },
    (file) => copyFileSync(join(folder, marked), join(folder, file)),
    (file) => ['bitmap', '--merge', 'second', file, 'first'],
    (file) => {
      if (!quietly(['qemu-img', 'info', file], folder).includes('first'))
        throw new Error('the bitmap is gone');
    },
  );
}
