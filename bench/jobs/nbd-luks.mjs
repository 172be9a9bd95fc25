// cow-nbd as the server of a LUKS image, against itself as the server of the same disk as it is, over a unix socket on a warm cache.
import { randomFillSync } from 'node:crypto';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { quietly } from '../process.mjs';
import { fio, nbdcopy, serve, sizeMebi } from './nbd-server.mjs';

export const title = 'nbd-luks';

const MiB = 1024 ** 2;
const secret = ['--object', 'secret,id=s,data=correct horse'];
const named = (file) => ['--image-opts', `driver=luks,file.filename=${file},key-secret=s`];
const [plain, encrypted, source] = ['nbd-plain.raw', 'nbd.luks', 'nbd-random.raw'];

function makeImages(folder) {
  const fd = openSync(join(folder, source), 'w');
  const bytes = Buffer.alloc(MiB);
  for (let i = 0; i < sizeMebi; i++) writeSync(fd, randomFillSync(bytes));
  closeSync(fd);
  quietly(['cp', source, plain], folder);
  const made = `${encrypted}.made`;
  const making = ['-f', 'raw', '-O', 'luks', '-o', 'key-secret=s,iter-time=10', source, made];
  quietly(['qemu-img', 'convert', ...secret, ...making], folder);
  // Both by one program: a small write costs the kernel more where the cache has the file in larger pieces, which depends on how it was written.
  quietly(['cp', made, encrypted], folder);
  rmSync(join(folder, made));
}

/** The rate is to be 0.8 of the plain disk's. */
const goal = { wall: 1 / 0.8 };
const depths = [
  [1, 32],
  [16, 64],
  [64, 64],
];
const work = [
  ...depths.map(([depth, mebi]) => [`4k reads ×${depth}`, fio('randread', '4k', depth, mebi)]),
  ['64k reads ×4', fio('randread', '64k', 4, 256)],
  ['1m reads ×4', fio('read', '1m', 4, 256)],
  ['nbdcopy out', nbdcopy(undefined, 'null:')],
  ...depths.map(([depth, mebi]) => [`4k writes ×${depth}`, fio('randwrite', '4k', depth, mebi)]),
  ['1m writes ×4', fio('write', '1m', 4, 256)],
  ['nbdcopy in', nbdcopy(source, undefined)],
];

export function* jobs({ folder, cowNbd, has }) {
  if (!has('luks')) return;
  makeImages(folder);
  const ours = serve(folder, cowNbd, [...secret, ...named(encrypted)], 'unix');
  const theirs = serve(folder, cowNbd, ['-f', 'raw', plain], 'unix');
  try {
    for (const [name, { argv, seconds }] of work) {
      yield {
        name: `luks: ${name}`,
        goal,
        ours: { name: 'luks', argv: argv(ours.uri), seconds, cpu: ours.cpu },
        peers: [{ name: 'plain', argv: argv(theirs.uri), seconds, cpu: theirs.cpu }],
      };
    }
  } finally {
    ours.end();
    theirs.end();
    for (const file of [plain, encrypted, source]) rmSync(join(folder, file));
  }
}
