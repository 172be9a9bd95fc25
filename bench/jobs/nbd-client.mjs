// Copying out of an export of qemu-nbd, and into one.
import { spawn } from 'node:child_process';
import { existsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeDisk } from '../images.mjs';
import { quietly } from '../process.mjs';
import { convertJob } from './support.mjs';

export const title = 'nbd-client';

/** Serves `image` on a unix socket in the folder until `end`. */
function serve(folder, image, name) {
  const socket = join(folder, `${name}.sock`);
  const child = spawn('qemu-nbd', ['-t', '-e', '16', '-f', 'raw', '-k', socket, image], {
    cwd: folder,
    stdio: 'ignore',
  });
  while (!existsSync(socket)) quietly(['sleep', '0.05'], folder);
  return { uri: `nbd+unix:///?socket=${socket}`, end: () => child.kill() };
}

export function* jobs(world) {
  const { folder, size } = world;
  const goal = { wall: 1 };
  const raw = makeDisk(folder, size);
  const source = serve(folder, raw, 'source');
  try {
    yield convertJob(world, { name: 'nbd → raw', goal, from: source.uri, to: 'raw', args: ['-O', 'raw'] });
    yield convertJob(world, {
      name: 'nbd → qcow2',
      goal,
      from: source.uri,
      to: 'qcow2',
      args: ['-O', 'qcow2'],
    });
  } finally {
    source.end();
  }
  writeFileSync(join(folder, 'target.raw'), '');
  truncateSync(join(folder, 'target.raw'), size);
  const target = serve(folder, 'target.raw', 'target');
  const argv = ['convert', '-n', '-f', 'raw', '-O', 'raw', raw, target.uri];
  try {
    yield {
      name: 'raw → nbd',
      goal,
      folder,
      ours: { name: 'cow-img', argv: [...world.cowImg, ...argv] },
      peers: [{ name: 'qemu-img', argv: ['qemu-img', ...argv] }],
      verify: () => quietly(['qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'raw', raw, target.uri], folder),
    };
  } finally {
    target.end();
  }
}
