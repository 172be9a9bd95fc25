// Runs each program's commands once and keeps what V8 compiles for them: a later start need not compile it (launch.cjs).
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** What the commands are run with, in this order, in one folder; 'any' is for all others. */
const imgCommands = {
  any: ['--version'],
  create: [
    ...['create', '-q', '-f', 'qcow2', 'master.qcow2', '1M', '--'],
    ...['create', '-q', '-f', 'qcow2', '-b', 'master.qcow2', '-F', 'qcow2', 'seat.qcow2'],
  ],
  info: ['info', '--backing-chain', 'seat.qcow2', '--', 'info', '--output', 'json', 'seat.qcow2'],
  convert: [
    ...[
      'convert',
      '-O',
      'raw',
      'seat.qcow2',
      'copy.raw',
      '--',
      'convert',
      '-O',
      'qcow2',
      'copy.raw',
      'copy.qcow2',
      '--',
    ],
    ...['convert', '-O', 'qcow2', 'seat.qcow2', 'copy.qcow2'],
  ],
  check: ['check', 'copy.qcow2'],
  map: ['map', '--output', 'json', 'seat.qcow2', '--', 'map', 'seat.qcow2'],
  measure: ['measure', '-O', 'qcow2', 'seat.qcow2'],
  resize: ['resize', '-q', 'copy.qcow2', '2M'],
  snapshot: ['snapshot', '-c', 'one', 'copy.qcow2', '--', 'snapshot', '-l', 'copy.qcow2'],
  compare: ['compare', '-q', 'master.qcow2', 'seat.qcow2'],
  rebase: ['rebase', '-b', 'master.qcow2', '-F', 'qcow2', 'seat.qcow2'],
  bitmap: ['bitmap', '--add', 'master.qcow2', 'one', '--', 'bitmap', '--remove', 'master.qcow2', 'one'],
  commit: ['commit', '-q', 'seat.qcow2'],
};

const lab = 'lab: warm-up\nmaster: master.qcow2\nseats: 2\npool: pool\nrunner: files\n';

const labCommands = {
  any: ['plan', 'lab.yaml'],
  up: ['up', 'lab.yaml'],
  status: ['status', 'lab.yaml'],
  reset: ['reset', 'lab.yaml', 'all'],
  tree: ['tree', 'lab.yaml'],
  down: ['down', 'lab.yaml'],
};

const programs = { 'cow-img': imgCommands, cowherd: labCommands, 'cow-nbd': { any: ['--version'] } };

/** Runs what was bundled into `folder`. Answers whether all of it runs: else a start is slow, and a program broken. */
export function keepCode(root, folder) {
  const scratch = mkdtempSync(join(tmpdir(), 'cowherd-build-'));
  writeFileSync(join(scratch, 'lab.yaml'), lab);
  const runs = Object.entries(programs).flatMap(([name, commands]) =>
    Object.entries(commands).map(([command, args]) => [name, command, ...args]),
  );
  let good = true;
  for (const run of [...runs, ['nbd-worker', '--thread']]) {
    const { status } = spawnSync(process.execPath, [join(root, 'scripts/code-cache.cjs'), folder, ...run], {
      cwd: scratch,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    if (status === 0) continue;
    console.error(`${run.join(' ')} does not run`);
    good = false;
  }
  rmSync(scratch, { recursive: true, force: true });
  return good;
}
