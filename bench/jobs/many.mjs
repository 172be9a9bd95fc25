// Work that spans many images: making and resetting overlays, and looking at them.
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { quietly } from '../process.mjs';

export const title = 'many';

const create = 'qemu-img create -q -f qcow2 -b ../master.qcow2 -F qcow2';

export function* jobs(world) {
  const { folder } = world;
  if (!existsSync(join(folder, 'master.qcow2'))) {
    quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', 'master.qcow2', '10G'], folder);
  }
  for (const [seats, wall] of [
    [40, 0.15],
    [1000, 0.05],
  ]) {
    yield overlays(world, seats, wall);
  }
  yield reset(world, 40);
  const image = 'loop/seat-1.qcow2';
  loop(world, 1000);
  yield {
    name: "info, against Node's own start",
    goal: { wall: 1.3 },
    ours: { name: 'cow-img', argv: [...world.cowImg, 'info', image] },
    peers: [{ name: 'node -e 0', argv: [process.execPath, '-e', '0'] }],
  };
  yield {
    name: 'info of 1,000 images',
    goal: { wall: 0.1 },
    rounds: 5,
    ours: { name: 'cowherd', argv: [...world.cowherd, 'tree', 'master.qcow2', '--all', '--output', 'json'] },
    peers: [
      { name: 'qemu-img loop', argv: ['sh', '-c', 'for f in loop/*.qcow2; do qemu-img info "$f"; done'] },
    ],
  };
}

function loop({ folder }, seats) {
  rmSync(join(folder, 'loop'), { recursive: true, force: true });
  mkdirSync(join(folder, 'loop'));
  quietly(['sh', '-c', makeLoop(seats)], folder);
}

const makeLoop = (seats) => `for i in $(seq ${seats}); do ${create} loop/seat-$i.qcow2; done`;

/** Ours makes every file durable and writes a libvirt definition beside it; the peer's files are not synced. */
function overlays(world, seats, wall) {
  const { folder } = world;
  const lab = labFile(folder, seats);
  return {
    name: `${seats} overlays`,
    goal: { wall },
    rounds: seats > 100 ? 3 : undefined,
    ours: { name: 'cowherd', argv: [...world.cowherd, 'up', lab] },
    peers: [{ name: 'qemu-img loop', argv: ['sh', '-c', makeLoop(seats)] }],
    prepare(side) {
      if (side.name === 'cowherd') quietly([...world.cowherd, 'down', lab], folder);
      else {
        rmSync(join(folder, 'loop'), { recursive: true, force: true });
        mkdirSync(join(folder, 'loop'));
      }
    },
    verify(side) {
      const pool = side.name === 'cowherd' ? `pool-${seats}` : 'loop';
      verifyOverlays(folder, pool, seats);
      if (side.name === 'cowherd') quietly([...world.cowherd, 'down', lab], folder);
    },
  };
}

function reset(world, seats) {
  const { folder } = world;
  const lab = labFile(folder, seats);
  quietly([...world.cowherd, 'up', lab], folder);
  loop(world, seats);
  return {
    name: `reset of ${seats} seats`,
    goal: { wall: 0.15 },
    ours: { name: 'cowherd', argv: [...world.cowherd, 'reset', lab, 'all'] },
    peers: [{ name: 'rm + qemu-img loop', argv: ['sh', '-c', `rm loop/*; ${makeLoop(seats)}`] }],
    verify: (side) => verifyOverlays(folder, side.name === 'cowherd' ? `pool-${seats}` : 'loop', seats),
  };
}

function labFile(folder, seats) {
  const name = `lab-${seats}.yaml`;
  writeFileSync(
    join(folder, name),
    `lab: bench-${seats}\nmaster: master.qcow2\nseats: ${seats}\npool: pool-${seats}\nrunner: files\n`,
  );
  return name;
}

/** Every overlay is there, and qemu-img finds the first and the last sound and backed by the master. */
function verifyOverlays(folder, pool, seats) {
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
