// A raw disk into LUKS and back, alone and inside qcow2, on random content: it hides no cost of the cipher behind holes.
import { randomFillSync } from 'node:crypto';
import { closeSync, existsSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { quietly } from '../process.mjs';

export const title = 'luks';

const secret = ['--object', 'secret,id=s,data=correct horse'];
const goal = { wall: 0.6 };
const plain = (file) => `driver=raw,file.filename=${file}`;

/** Both sides time their iterations: a short `iter-time`, so that the copy is what is measured. */
const kinds = [
  {
    name: 'luks',
    format: 'luks',
    options: 'key-secret=s,iter-time=10',
    named: (file) => `driver=luks,file.filename=${file},key-secret=s`,
  },
  {
    name: 'qcow2 with luks',
    format: 'qcow2',
    options: 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
    named: (file) => `driver=qcow2,file.filename=${file},encrypt.key-secret=s`,
  },
];

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
  /** `argv`: what comes after `convert`, given the target's name. `opened`: the target as the judge opens it. */
  const job = (name, target, argv, opened, make) => {
    const side = (label, program, extra = []) => {
      const out = `${target}-${label.replaceAll(/[^a-z0-9]+/gi, '-')}`;
      return { name: label, target: out, argv: [...program, 'convert', ...extra, ...secret, ...argv(out)] };
    };
    const remove = ({ target: out }) => rmSync(join(folder, out), { force: true });
    return {
      name,
      goal,
      folder,
      ours: side('cow-img', cowImg),
      peers: [side('qemu-img', ['qemu-img']), side('qemu-img -W -m 8', ['qemu-img'], ['-W', '-m', '8'])],
      prepare(one) {
        remove(one);
        make?.(one.target);
      },
      verify(one) {
        const args = ['compare', '-q', ...secret, '--image-opts', opened(one.target), plain(raw)];
        quietly(['qemu-img', ...args], folder);
        remove(one);
      },
    };
  };
  for (const { name, format, options, named } of kinds) {
    const making = ['-f', 'raw', '-O', format, '-o', options, raw];
    yield job(`raw → ${name}`, 'encrypted', (out) => [...making, out], named);
    // Key derivation apart: qemu-img takes a second or more to time its own, whatever `iter-time` says.
    const copying = (out) => ['-n', '-f', 'raw', raw, '--target-image-opts', named(out)];
    const make = (out) =>
      quietly(
        ['qemu-img', 'create', '-q', ...secret, '-f', format, '-o', options, out, String(size)],
        folder,
      );
    yield job(`raw → ${name} that is there`, 'encrypted', copying, named, make);
    const encrypted = `random.${format}`;
    if (!existsSync(join(folder, encrypted))) {
      quietly(['qemu-img', 'convert', ...secret, ...making, encrypted], folder);
    }
    yield job(
      `${name} → raw`,
      'decrypted',
      (out) => ['--image-opts', named(encrypted), '-O', 'raw', out],
      plain,
    );
  }
}
