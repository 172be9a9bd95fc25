// The disks that the jobs work on: a file system of real files in a partition, and stretches that are sparse, dense and
// full of zeroes.
import { randomFillSync } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { quietly } from './process.mjs';

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;

/** Where real files of all kinds are found: text, programs, libraries, compressed archives. */
const realFiles = ['/usr/lib', '/usr/share', '/usr/bin'];

/**
 * Makes `disk.raw` of `size` bytes in `folder`: GPT, an ext4 file system of real files over about a third of it, 5 %
 * random bytes, 3 % written zeroes, and the rest a hole.
 * @returns {string} its name
 */
export function makeDisk(folder, size) {
  const name = 'disk.raw';
  const path = join(folder, name);
  if (existsSync(path)) return name;
  const wanted = Math.floor((size * 0.36) / MiB) * MiB;
  const tree = join(folder, 'tree');
  gatherFiles(tree, wanted * 0.8, folder);
  const fileSystem = join(folder, 'ext4.img');
  writeFileSync(fileSystem, '');
  truncateSync(fileSystem, wanted);
  quietly(['mkfs.ext4', '-q', '-F', '-E', 'root_owner=0:0', '-d', tree, fileSystem]);
  rmSync(tree, { recursive: true });
  writeFileSync(path, '');
  truncateSync(path, size);
  quietly(
    ['sh', '-c', `printf 'label: gpt\\nstart=2048, size=${wanted / 512}\\n' | sfdisk -q ${name}`],
    folder,
  );
  quietly(['dd', `if=${fileSystem}`, `of=${path}`, 'bs=1M', 'seek=1', 'conv=notrunc,sparse', 'status=none']);
  rmSync(fileSystem);
  const file = openSync(path, 'r+');
  fill(file, size * 0.5, size * 0.05, (bytes) => randomFillSync(bytes));
  fill(file, size * 0.7, size * 0.03, (bytes) => bytes.fill(0));
  closeSync(file);
  return name;
}

/** Copies whole top folders of the system until there is enough. */
function gatherFiles(tree, wanted, folder) {
  mkdirSync(tree);
  let bytes = 0;
  for (const top of realFiles) {
    for (const entry of readdirSync(top)) {
      if (bytes >= wanted) return;
      const source = join(top, entry);
      const size = Number(quietly(['du', '-s', '-B1', source], folder).split('\t')[0]);
      if (bytes + size > wanted) continue;
      quietly(['mkdir', '-p', join(tree, top)], folder);
      quietly(['cp', '-a', source, join(tree, top, entry)], folder);
      bytes += size;
    }
  }
}

function fill(file, from, length, make) {
  const bytes = Buffer.alloc(MiB);
  const start = Math.floor(from / MiB) * MiB;
  for (let at = start; at < start + length; at += MiB) writeSync(file, make(bytes) ?? bytes, 0, MiB, at);
}

/** An image in another format, made by qemu-img from `source`. */
export function derive(folder, source, name, args) {
  if (!existsSync(join(folder, name))) quietly(['qemu-img', 'convert', ...args, source, name], folder);
  return name;
}

/** Three overlays over `master`, each of which holds an eighth of the file system part's data anew. */
export function makeChain(folder, master, size) {
  let below = master;
  for (let depth = 1; depth <= 3; depth++) {
    const name = `chain-${depth}.qcow2`;
    if (!existsSync(join(folder, name))) {
      quietly(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', below, '-F', 'qcow2', name], folder);
      const commands = [];
      // Stretches of 1 MiB here and there, at places that differ from layer to layer.
      for (let at = depth * 4 * MiB; at < size * 0.36; at += 24 * MiB) {
        commands.push('-c', `write -q -P ${64 + depth} ${at} 1M`);
      }
      quietly(['qemu-io', '-f', 'qcow2', ...commands, name], folder);
    }
    below = name;
  }
  return below;
}

export { GiB, MiB };
