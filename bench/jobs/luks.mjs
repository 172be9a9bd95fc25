// A raw disk into LUKS and back, on random content: it hides no cost of the cipher behind holes.
import { randomFillSync } from 'node:crypto';
import { closeSync, existsSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { quietly } from '../process.mjs';

export const title = 'luks';

const secret = ['--object', 'secret,id=s,data=correct horse'];
const goal = { wall: 0.6 };
const named = (file) => `driver=luks,file.filename=${file},key-secret=s`;
const plain = (file) => `driver=raw,file.filename=${file}`;

function makeRandomDisk(folder, size) {
  const name = 'random.raw';
  if (existsSync(join(folder, name))) return name;
  const chunk = Buffer.alloc(1 << 20);
  const file = openSync(join(folder, name), 'w');
  for (let done = 0; done < size; done += chunk.length) writeSync(file, randomFillSync(chunk));
  closeSync(file);
  return name;
}

export function* jobs(world) {
  const { folder, size, cowImg } = world;
  if (!world.has('luks')) return;
  const raw = makeRandomDisk(folder, size);
  const job = (name, target, argv, compare) => {
    const side = (label, program, extra = []) => {
      const out = `${target}-${label.replaceAll(/[^a-z0-9]+/gi, '-')}`;
      return { name: label, target: out, argv: [...program, 'convert', ...extra, ...secret, ...argv, out] };
    };
    const remove = ({ target: out }) => rmSync(join(folder, out), { force: true });
    return {
      name,
      goal,
      folder,
      writes: size,
      ours: side('cow-img', cowImg),
      peers: [side('qemu-img', ['qemu-img']), side('qemu-img -W -m 8', ['qemu-img'], ['-W', '-m', '8'])],
      prepare: remove,
      verify(one) {
        const args = ['compare', '-q', ...secret, '--image-opts', compare(one.target), plain(raw)];
        quietly(['qemu-img', ...args], folder);
        remove(one);
      },
    };
  };
  // Both sides time their iterations: a short `iter-time`, so that the copy is what is measured.
  const making = ['-O', 'luks', '-o', 'key-secret=s,iter-time=100'];
  yield job('raw → luks', 'encrypted', ['-f', 'raw', ...making, raw], named);
  const encrypted = 'random.luks';
  if (!existsSync(join(folder, encrypted))) {
    quietly(['qemu-img', 'convert', ...secret, '-f', 'raw', ...making, raw, encrypted], folder);
  }
  yield job('luks → raw', 'decrypted', ['--image-opts', named(encrypted), '-O', 'raw'], plain);
}
