// Work that spans many images: making and resetting overlays, and looking at them.
import { existsSync, mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { quietly } from '../process.mjs';

export const title = 'many';

const create = 'qemu-img create -q -f qcow2 -b ../master.qcow2 -F qcow2';

export function* jobs(world) {
  for (const [seats, wall] of [
    [40, 0.15],
    [1000, 0.05],
  ]) {
    yield overlays(world, seats, wall);
  }
  yield reset(world, 40);
  const folder = place(world, 'looking');
  loop(folder, 1000);
  yield {
    name: "info, against Node's own start",
    goal: { wall: 1.3 },
    folder,
    ours: { name: 'cow-img', argv: [...world.cowImg, 'info', 'loop/seat-1.qcow2'] },
    peers: [{ name: 'node -e 0', argv: [process.execPath, '-e', '0'] }],
  };
  yield {
    name: 'info of 1,000 images',
    goal: { wall: 0.1 },
    rounds: 5,
    folder,
    ours: { name: 'cowherd', argv: [...world.cowherd, 'tree', 'master.qcow2', '--all', '--output', 'json'] },
    peers: [
      { name: 'qemu-img loop', argv: ['sh', '-c', 'for f in loop/*.qcow2; do qemu-img info "$f"; done'] },
    ],
  };
}

/** A folder with an empty `master.qcow2`. */
export function place(world, name) {
  const folder = join(world.folder, name);
  if (!existsSync(folder)) {
    mkdirSync(folder);
    quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', 'master.qcow2', '10G'], folder);
  }
  return folder;
}

const makeLoop = (seats) => `for i in $(seq ${seats}); do ${create} loop/seat-$i.qcow2; done`;

function loop(folder, seats) {
  mkdirSync(join(folder, 'loop'));
  quietly(['sh', '-c', makeLoop(seats)], folder);
}

let used = 0;

/**
 * Ours makes every file and its name durable and writes a libvirt definition beside it. The peer flushes each file's data
 * (four times: `qemu-img create` opens what it made once more for that), and no folder.
 */
function overlays(world, seats, wall) {
  const folder = place(world, `overlays-${seats}`);
  let pool = 'loop';
  return {
    name: `${seats} overlays`,
    goal: { wall },
    rounds: seats > 100 ? 3 : undefined,
    folder,
    ours: { name: 'cowherd', argv: [...world.cowherd, 'up', labName(seats)] },
    peers: [{ name: 'qemu-img loop', argv: ['sh', '-c', makeLoop(seats)] }],
    // Nothing is deleted: where thousands of files were just deleted, ext4 takes ten times as long to make one.
    prepare(side) {
      pool = side.name === 'cowherd' ? writeLab(folder, seats) : 'loop';
      if (pool !== 'loop') return;
      if (existsSync(join(folder, pool))) renameSync(join(folder, pool), join(folder, `used-${++used}`));
      mkdirSync(join(folder, pool));
    },
    verify: () => verifyOverlays(folder, pool, seats),
  };
}

function reset(world, seats) {
  const folder = place(world, `reset-${seats}`);
  const pool = writeLab(folder, seats);
  quietly([...world.cowherd, 'up', labName(seats)], folder);
  loop(folder, seats);
  return {
    name: `reset of ${seats} seats`,
    goal: { wall: 0.15 },
    folder,
    ours: { name: 'cowherd', argv: [...world.cowherd, 'reset', labName(seats), 'all'] },
    peers: [{ name: 'rm + qemu-img loop', argv: ['sh', '-c', `rm loop/*; ${makeLoop(seats)}`] }],
    verify: (side) => verifyOverlays(folder, side.name === 'cowherd' ? pool : 'loop', seats),
  };
}

export const labName = (seats) => `lab-${seats}.yaml`;

/** Writes a lab of so many seats over `master.qcow2`, files only, with a pool that nothing is in yet; gives that. */
export function writeLab(folder, seats) {
  const name = `${seats}-${++used}`;
  const text = `lab: bench-${name}\nmaster: master.qcow2\nseats: ${seats}\npool: pool-${name}\nrunner: files\n`;
  writeFileSync(join(folder, labName(seats)), text);
  return `pool-${name}`;
}

/** Every overlay is there, and qemu-img finds the first and the last sound and backed by the master. */
export function verifyOverlays(folder, pool, seats) {
  const disks = readdirSync(join(folder, pool))
    .filter((name) => name.endsWith('.qcow2'))
    .sort();
  if (disks.length !== seats) throw new Error(`${pool} has ${disks.length} overlays, not ${seats}`);
  for (const disk of [disks[0], disks.at(-1)]) {
    const path = join(folder, pool, disk);
    quietly(['qemu-img', 'check', '-q', path], folder);
    const info = JSON.parse(quietly(['qemu-img', 'info', '--output', 'json', path], folder));
    if (!info['backing-filename']?.endsWith('master.qcow2'))
      throw new Error(`${path} has another backing file`);
  }
}
