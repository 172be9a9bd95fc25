// Rates of cow-nbd and qemu-nbd on the same image, in turn: `node bench/nbd.mjs [--seconds 2] [--rounds 3]`.
// On a machine with other work, rates tell little: CPU time of the server for each MiB or request is shown beside them.
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
  },
});
const mebi = 1024 * 1024;
const sizeMebi = 256;
const folder = mkdtempSync(join(tmpdir(), 'cowherd-bench-nbd-'));
const cowNbd = process.env.COW_NBD ?? fileURLToPath(new URL('../bin/cow-nbd.js', import.meta.url));
const servers = { ours: [process.execPath, cowNbd], peer: ['qemu-nbd'] };
const file = (name) => join(folder, name);
const qemuImg = (...args) => execFileSync('qemu-img', args, { stdio: 'ignore' });

function makeImages() {
  const fd = openSync(file('plain.raw'), 'w');
  // Half random, half text: compressed images then compress.
  for (let i = 0; i < sizeMebi; i++)
    writeSync(fd, i % 2 === 0 ? randomBytes(mebi) : Buffer.alloc(mebi, `line ${i}\n`));
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', file('plain.raw'), file('plain.qcow2'));
  qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', file('plain.raw'), file('packed.qcow2'));
  qemuImg('create', '-f', 'qcow2', '-F', 'qcow2', '-b', file('plain.qcow2'), file('overlay.qcow2'));
}

const images = [
  ['raw', 'raw', 'plain.raw'],
  ['qcow2', 'qcow2', 'plain.qcow2'],
  ['overlay', 'qcow2', 'overlay.qcow2'],
  ['compressed', 'qcow2', 'packed.qcow2'],
];
const jobs = [
  ...[1, 16, 64].map((depth) => ['randread', '4k', depth]),
  ...[1, 16, 64].map((depth) => ['randwrite', '4k', depth]),
  ['read', '1m', 4],
  ['write', '1m', 4],
  ['nbdcopy out', '', 0],
  ['nbdcopy in', '', 0],
];

/** Starts a server; `cpu` tells its CPU seconds. */
async function serve(command, format, image) {
  const socket = file('socket');
  rmSync(socket, { force: true });
  const args = ['-t', '-e', '8', '--discard=unmap', '-k', socket, '-f', format, image];
  const child = spawn(command[0], [...command.slice(1), ...args], { stdio: 'ignore' });
  while (!existsSync(socket)) await sleep(10);
  await sleep(100);
  return {
    uri: `nbd+unix:///?socket=${socket}`,
    cpu() {
      const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1].split(' ');
      return (Number(fields[11]) + Number(fields[12])) / 100;
    },
    stop: () =>
      new Promise((resolve) => {
        child.on('close', resolve);
        child.kill();
      }),
  };
}

/** Requests (or MiB, of a copy) a second, and CPU microseconds of the server for each. */
function run([kind, size, depth], { uri, cpu }) {
  const before = cpu();
  let rate;
  let count;
  if (kind.startsWith('nbdcopy')) {
    const started = performance.now();
    const ends = kind === 'nbdcopy out' ? [uri, 'null:'] : ['--flush', file('plain.raw'), uri];
    execFileSync('nbdcopy', ['-C', '4', ...ends], { stdio: 'ignore' });
    count = sizeMebi;
    rate = (count / (performance.now() - started)) * 1000;
  } else {
    const out = file('fio.json');
    const args = [
      '--name=job',
      '--ioengine=nbd',
      `--uri=${uri}`,
      `--rw=${kind}`,
      `--bs=${size}`,
      `--iodepth=${depth}`,
    ];
    const time = ['--time_based', `--runtime=${values.seconds}`, `--size=${sizeMebi}m`];
    execFileSync('fio', [...args, ...time, '--output-format=json', `--output=${out}`], { stdio: 'ignore' });
    const text = readFileSync(out, 'utf8');
    const [job] = JSON.parse(text.slice(text.indexOf('{'))).jobs;
    rate = job.read.iops + job.write.iops;
    count = job.read.total_ios + job.write.total_ios;
  }
  return { rate, cost: ((cpu() - before) / count) * 1e6 };
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

try {
  makeImages();
  console.log(
    'image       job              depth   ours/s   peer/s  rate   CPU us ours  peer  ratio peer/ours',
  );
  for (const [label, format, image] of images) {
    for (const job of jobs) {
      if (!`${label} ${job[0]}`.includes(values.only)) continue;
      const found = { ours: [], peer: [] };
      for (let round = 0; round < Number(values.rounds); round++) {
        for (const who of round % 2 === 0 ? ['ours', 'peer'] : ['peer', 'ours']) {
          const server = await serve(servers[who], format, file(image));
          try {
            found[who].push(run(job, server));
          } finally {
            await server.stop();
          }
        }
      }
      const of = (who, what) => median(found[who].map((one) => one[what]));
      const [ours, peer] = [of('ours', 'rate'), of('peer', 'rate')];
      const [cost, theirs] = [of('ours', 'cost'), of('peer', 'cost')];
      console.log(
        [
          label.padEnd(11),
          `${job[0]} ${job[1]}`.padEnd(16),
          String(job[2]).padStart(5),
          ours.toFixed(0).padStart(8),
          peer.toFixed(0).padStart(8),
          (ours / peer).toFixed(2).padStart(5),
          cost.toFixed(1).padStart(12),
          theirs.toFixed(1).padStart(7),
          (theirs / cost).toFixed(2).padStart(7),
        ].join(' '),
      );
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
