// `npm run bench`: our time against qemu-img's on the same work, in one run. Options: --rounds N, --output json.
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildWhenNeeded, installDebianPackages, installPackages, root } from './bootstrap.mjs';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '7' }, output: { type: 'string', default: 'human' } },
});
installPackages();
buildWhenNeeded();
if (installDebianPackages({ 'qemu-img': 'qemu-utils' }).length > 0) {
  console.error('The peer is missing: sudo apt-get install qemu-utils');
  process.exit(1);
}

const { benchOverlays } = await import('../bench/overlays.mjs');
const rows = await benchOverlays({ cowherd: join(root, 'bin/cowherd.js'), rounds: Number(values.rounds) });

if (values.output === 'json') {
  console.log(JSON.stringify({ node: process.versions.node, cpus: cpus().length, rows }, null, 2));
} else {
  const ms = ({ median }) => `${median.toFixed(0)} ms`.padStart(9);
  console.log(
    `Node ${process.versions.node}, ${cpus().length} CPUs; medians of wall time, process start included`,
  );
  console.log(`${'job'.padEnd(16)}${'ours'.padStart(9)}${'qemu-img'.padStart(10)}   ratio (min … max)`);
  for (const { job, ours, peer, ratio } of rows) {
    const figures = `${ratio.median.toFixed(3)} (${ratio.min.toFixed(3)} … ${ratio.max.toFixed(3)})`;
    console.log(`${job.padEnd(16)}${ms(ours)} ${ms(peer)}   ${figures}`);
  }
}
