// cow-nbd and qemu-nbd as servers of the same image, over a unix socket and TCP, on a warm cache. Both run on through all rounds,
// as servers do; CPU is the server's. fio takes 0.3 s to start, longer than many of its jobs here: its own time counts.
import { spawn } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { closeSync, copyFileSync, existsSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { quietly } from '../process.mjs';

export const title = 'nbd';

const MiB = 1024 ** 2;
export const sizeMebi = 256;
const file = 'nbd.raw';
/** What is copied in: nobody serves it. */
const source = 'nbd-source.raw';

/** Half random bytes, half text: compressed images then compress. */
function makeImages(folder) {
  if (existsSync(join(folder, file))) return;
  const fd = openSync(join(folder, file), 'w');
  const bytes = Buffer.alloc(MiB);
  for (let i = 0; i < sizeMebi; i++)
    writeSync(fd, i % 2 === 0 ? randomFillSync(bytes) : Buffer.alloc(MiB, `line ${i}\n`));
  closeSync(fd);
  const qemuImg = (...args) => quietly(['qemu-img', ...args], folder);
  copyFileSync(join(folder, file), join(folder, source));
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', file, 'nbd.qcow2');
  qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', file, 'nbd-packed.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'nbd.qcow2', 'nbd-overlay.qcow2');
}

const images = [
  ['raw', 'raw', file],
  ['qcow2', 'qcow2', 'nbd.qcow2'],
  ['overlay', 'qcow2', 'nbd-overlay.qcow2'],
  ['compressed', 'qcow2', 'nbd-packed.qcow2'],
];

/** Least rates of reads of raw and qcow2 images, and of all else, over the peer's; as ratios of times. */
const fast = { wall: 1 / 1.5 };
const even = { wall: 1 };

export const fio = (rw, bs, depth, mebi) => ({
  argv: (uri) => [
    ...['fio', '--name=job', '--ioengine=nbd', `--uri=${uri}`, `--rw=${rw}`, `--bs=${bs}`],
    ...[`--iodepth=${depth}`, '--norandommap', `--size=${sizeMebi}m`, `--io_size=${mebi}m`],
    '--output-format=json',
  ],
  seconds(output) {
    const [{ read, write }] = JSON.parse(output.slice(output.indexOf('{'))).jobs;
    return Math.max(read.runtime, write.runtime) / 1000;
  },
});
/** QEMU's own client, as guests have it: up to 16 requests at a time, each `step` bytes behind the one before. */
const qemuImg = (bytes, depth, count, { step = bytes, write = false } = {}) => ({
  argv: (uri) => [
    ...['qemu-img', 'bench', '-f', 'raw', '-s', String(bytes), '-d', String(depth), '-c', String(count)],
    ...['-S', String(step), ...(write ? ['-w'] : []), uri],
  ],
  seconds: (output) => Number(/completed in ([\d.]+) seconds/.exec(output)[1]),
});
/** All blocks of 4 KiB of the disk in an order that looks like none. */
const scattered = { step: 7919 * 4096 };
export const nbdcopy = (from, to) => ({
  argv: (uri) => ['nbdcopy', '-C', '4', from ?? uri, to ?? uri],
});
const depths = [
  [1, 32],
  [16, 128],
  [64, 128],
];
const work = [
  ...depths.map(([depth, mebi]) => [`4k reads ×${depth}`, fio('randread', '4k', depth, mebi), fast]),
  ['1m reads', fio('read', '1m', 4, 1024), fast],
  ['4k reads ×1, QEMU', qemuImg(4096, 1, 4000, scattered), fast],
  ['4k reads ×16, QEMU', qemuImg(4096, 16, 4000, scattered), fast],
  ['1m reads, QEMU', qemuImg(MiB, 4, 1024), fast],
  ['nbdcopy out', nbdcopy(undefined, 'null:'), even],
  ...depths.map(([depth, mebi]) => [`4k writes ×${depth}`, fio('randwrite', '4k', depth, mebi), even]),
  ['1m writes', fio('write', '1m', 4, 1024), even],
  ['nbdcopy in', nbdcopy(source, undefined), even],
  ['4k writes ×16, QEMU', qemuImg(4096, 16, 4000, { ...scattered, write: true }), even],
  ['1m writes, QEMU', qemuImg(MiB, 4, 1024, { write: true }), even],
];

let nextPort = 20000 + (process.pid % 20000);

/** Serves an image until `end`. `opening`: what names it. */
export function serve(folder, program, opening, transport) {
  const port = nextPort++;
  const socket = join(folder, `nbd-${port}.sock`);
  const where = transport === 'tcp' ? ['-b', '127.0.0.1', '-p', String(port)] : ['-k', socket];
  const [command, ...words] = program;
  const args = [...words, '-t', '-e', '8', '--discard=unmap', ...where, ...opening];
  const child = spawn(command, args, { cwd: folder, stdio: 'ignore' });
  const uri = transport === 'tcp' ? `nbd://127.0.0.1:${port}` : `nbd+unix:///?socket=${socket}`;
  // Until it answers, and then until it is at rest.
  const ready = `for try in $(seq 300); do nbdinfo --size '${uri}' 2>/dev/null && break; sleep 0.1; done; sleep 1`;
  quietly(['sh', '-c', ready], folder);
  return {
    uri,
    /** Seconds that the server has used. */
    cpu() {
      const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1].split(' ');
      return (Number(fields[11]) + Number(fields[12])) / 100;
    },
    end() {
      child.kill();
      // It closes its image, which the next server opens. (Nobody reaps it meanwhile.)
      quietly(['sh', '-c', `while [ -e /proc/${child.pid}/exe ]; do sleep 0.05; done`], folder);
    },
  };
}

export function* jobs({ folder, cowNbd }) {
  makeImages(folder);
  for (const transport of ['unix', 'tcp']) {
    for (const [label, format, image] of images) {
      // One of them keeps the other out of its image.
      const copy = `peer-${image}`;
      copyFileSync(join(folder, image), join(folder, copy));
      const ours = serve(folder, cowNbd, ['-f', format, image], transport);
      const theirs = serve(folder, ['qemu-nbd'], ['-f', format, copy], transport);
      const isPlain = label === 'raw' || label === 'qcow2';
      try {
        for (const [name, { argv, seconds }, goal] of work) {
          const side = (program, { uri, cpu }) => ({ name: program, argv: argv(uri), seconds, cpu });
          yield {
            name: `${label} by ${transport}: ${name}`,
            goal: isPlain ? goal : even,
            ours: side('cow-nbd', ours),
            peers: [side('qemu-nbd', theirs)],
          };
        }
      } finally {
        ours.end();
        theirs.end();
        rmSync(join(folder, copy));
      }
    }
    for (const [, , image] of images) rmSync(join(folder, image));
    makeImages(folder);
  }
}
