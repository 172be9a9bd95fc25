// `npm run bench`: our time against the peer's on the same work, in one run.
// Options: --only NAME[,NAME] (groups; of these, or of all, only jobs with these words in their names), --size 4G, --runs 7, --output json, --keep FOLDER (results),
// --long (the ends of the growth curves: 64 GiB of data, 100 million clusters).
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildWhenNeeded, installDebianPackages, installPackages, libraries, root } from './bootstrap.mjs';

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    size: { type: 'string', default: '4G' },
    runs: { type: 'string', default: '7' },
    output: { type: 'string', default: 'human' },
    keep: { type: 'string' },
    long: { type: 'boolean', default: false },
    folder: { type: 'string', default: tmpdir() },
  },
});
installPackages();
buildWhenNeeded();
const missing = installDebianPackages({
  'qemu-img': 'qemu-utils',
  time: 'time',
  sfdisk: 'fdisk',
  'mkfs.ext4': 'e2fsprogs',
  'mkfs.xfs': 'xfsprogs',
  'mkfs.btrfs': 'btrfs-progs',
  fio: 'fio',
  nbdcopy: 'libnbd-bin',
  ...libraries,
});
if (missing.some((name) => ['qemu-utils', 'time', 'fdisk', 'e2fsprogs'].includes(name))) {
  console.error(`The benchmark needs: sudo apt-get install ${missing.join(' ')}`);
  process.exit(1);
}

const { measure } = await import('../bench/rounds.mjs');
const { isStopped, stop } = await import('../bench/process.mjs');
const { asText, asChart } = await import('../bench/report.mjs');
const { trace } = await import('../bench/growth/measure.mjs');
const { growthChart, growthText } = await import('../bench/growth/report.mjs');
const { groups } = await import('../bench/jobs/index.mjs');
const { formats } = await import('../dist/formats/index.js');

const units = { M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 };
const size = Number(values.size.slice(0, -1)) * units[values.size.slice(-1)];
if (!(size >= 64 * units.M)) {
  console.error('--size takes a number and M, G or T, 64M at least: --size 4G');
  process.exit(1);
}
const program = (name) => [process.execPath, join(root, 'bin', `${name}.js`)];
const folder = mkdtempSync(join(values.folder, 'cowherd-bench-'));
const world = {
  folder,
  size,
  long: values.long,
  cowImg: program('cow-img'),
  cowherd: program('cowherd'),
  cowNbd: program('cow-nbd'),
  has: (format) => formats.some(({ name }) => name === format),
};
const asked = values.only?.split(',') ?? [];
const titles = asked.filter((word) => groups.some(({ title }) => title === word));
const words = asked.filter((word) => !titles.includes(word));
const isWanted = (job) => words.length === 0 || words.some((word) => job.includes(word));

const rows = [];
const curves = [];
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, stop);
let interrupted = false;
try {
  for (const group of groups) {
    // A group's images are made when its first job is asked for: one that nobody wants costs nothing.
    const isAsked = titles.includes(group.title);
    if (!isAsked && (group.onlyWhenAsked || titles.length > 0)) continue;
    for (const curve of group.curves?.(world) ?? []) {
      if (!isWanted(curve.name)) continue;
      curves.push(await trace(curve, { folder, rounds: Math.min(Number(values.runs), 3) }));
      console.error(`${curve.name}: power ${curves.at(-1).power.cpu.all?.toFixed(2) ?? '–'}`);
    }
    for (const job of group.jobs?.(world) ?? []) {
      if (!isWanted(job.name)) continue;
      const row = { group: group.title, ...(await measure(job, { folder, rounds: Number(values.runs) })) };
      rows.push(row);
      console.error(`${row.job}: ${row.wall.median.toFixed(2)} of ${row.peer}`);
    }
  }
} catch (error) {
  // Ctrl-C reaches the commands too, and one of them may have failed by it: that is no error of its own.
  interrupted = await isStopped();
  if (!interrupted) throw error;
  console.error('Interrupted: this is what was measured until then.');
} finally {
  rmSync(folder, { recursive: true, force: true });
}

const machine = {
  cpu: cpus()[0].model.trim(),
  cpus: cpus().length,
  memory: Math.round(totalmem() / 1024 ** 3),
  kernel: release(),
  node: process.versions.node,
  qemu: execFileSync('qemu-img', ['--version'], { encoding: 'utf8' }).split('\n')[0],
  size: values.size,
  runs: Number(values.runs),
};
const parts = [
  ...(rows.length > 0 || curves.length === 0 ? [asText(machine, rows)] : []),
  ...(curves.length > 0 ? [growthText(curves)] : []),
];
const report = parts.join('\n\n');
const results = JSON.stringify({ machine, rows, curves }, null, 2);
if (values.keep) {
  mkdirSync(values.keep, { recursive: true });
  const keep = (name, content) => writeFileSync(join(values.keep, name), content);
  keep('results.json', `${results}\n`);
  keep('results.txt', `${report}\n`);
  if (rows.length > 0) keep('results.svg', asChart(machine, rows));
  if (curves.length > 0) keep('growth.svg', growthChart(machine, curves));
}
console.log(values.output === 'json' ? results : report);
process.exitCode = interrupted ? 130 : 0;
