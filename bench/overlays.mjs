// Making overlays over one master: `cowherd up` (durable: every file and the folder are synced; domain XML included)
// against a loop of `qemu-img create` (which syncs nothing).
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { paired } from './paired.mjs';

const quiet = { stdio: ['ignore', 'ignore', 'inherit'] };

/** @param {{ cowherd: string, rounds: number }} options the built program, and counted rounds of the smallest job */
export async function benchOverlays({ cowherd, rounds }) {
  const folder = mkdtempSync(join(tmpdir(), 'cowherd-bench-'));
  try {
    const master = join(folder, 'master.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', master, '10G']);
    const rows = [];
    for (const seats of [40, 1000]) {
      const lab = join(folder, `lab-${seats}.yaml`);
      const pool = join(folder, `pool-${seats}`);
      const loop = join(folder, `loop-${seats}`);
      writeFileSync(
        lab,
        `lab: bench-${seats}\nmaster: master.qcow2\nseats: ${seats}\npool: ${pool}\nrunner: files\n`,
      );
      const up = () => execFileSync(process.execPath, [cowherd, 'up', lab], quiet);
      const ours = {
        prepare: () => execFileSync(process.execPath, [cowherd, 'down', lab], quiet),
        run: up,
        verify: () => verify(pool, seats),
      };
      const peer = {
        prepare: () => {
          rmSync(loop, { recursive: true, force: true });
          mkdirSync(loop);
        },
        run: () => {
          for (let seat = 0; seat < seats; seat++) {
            const path = join(loop, `seat-${seat}.qcow2`);
            execFileSync(
              'qemu-img',
              ['create', '-q', '-f', 'qcow2', '-b', '../master.qcow2', '-F', 'qcow2', path],
              quiet,
            );
          }
        },
        verify: () => verify(loop, seats),
      };
      up();
      rows.push({
        job: `${seats} overlays`,
        ...(await paired(ours, peer, { rounds: seats > 100 ? Math.min(rounds, 3) : rounds })),
      });
      ours.prepare();
    }
    return rows;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Every overlay is there, and qemu-img finds the first and the last sound and backed by the master. */
function verify(folder, seats) {
  const disks = readdirSync(folder, { recursive: true })
    .filter((name) => name.endsWith('.qcow2'))
    .sort();
  if (disks.length !== seats) throw new Error(`${folder} has ${disks.length} overlays, not ${seats}`);
  for (const disk of [disks[0], disks[disks.length - 1]]) {
    const path = join(folder, disk);
    execFileSync('qemu-img', ['check', '-q', path]);
    const info = JSON.parse(
      execFileSync('qemu-img', ['info', '--output', 'json', path], { encoding: 'utf8' }),
    );
    if (!info['backing-filename']?.endsWith('master.qcow2'))
      throw new Error(`${path} has another backing file`);
  }
}
