import { mkdir } from 'node:fs/promises';
import { mustRun } from '../support/programs.ts';
import { lines } from './harness.ts';
import { io, patch } from './world.ts';

/* Verbs that write meet a table that cannot be true: what they say, and the mark in the header. */

const cluster = 65536;

async function world(path: string): Promise<void> {
  await mkdir(path);
  const create = (...args: string[]) => mustRun('qemu-img', ['create', '-q', ...args], { cwd: path });
  await create('raw.img', '1M');
  await io(path, 'raw', 'raw.img', 'write -P 1 0 64k');
  await create('full.img', '256k');
  await io(path, 'raw', 'full.img', 'write -P 3 0 256k');
  await create('-f', 'qcow2', 'table.qcow2', '2M');
  await io(path, 'qcow2', 'table.qcow2', 'write -P 5 0 128k');
  // An L2 table off its boundary, and an entry of one.
  await patch(path, 'table.qcow2', 3 * cluster, [0x80, 0, 0, 0, 0, 4, 2, 0]);
  await create('-f', 'qcow2', '-b', 'raw.img', '-F', 'raw', 'entry.qcow2');
  await io(path, 'qcow2', 'entry.qcow2', 'write -P 4 0 4k');
  await patch(path, 'entry.qcow2', 4 * cluster, [0x80, 0, 0, 0, 0, 5, 2, 0]);
  await create('-f', 'qcow2', '-b', 'table.qcow2', '-F', 'qcow2', 'ontable.qcow2');
  await create('-f', 'qcow2', '-b', 'raw.img', '-F', 'raw', 'onraw.qcow2');
}

lines(
  'tables that cannot be, writing',
  [
    { line: 'dd if=table.qcow2 of=out.raw bs=64k -O raw', filesDiffer: 'failed-create' },
    { line: 'dd if=entry.qcow2 of=out.raw bs=64k -O raw', filesDiffer: 'failed-create' },
    'convert -n -O qcow2 full.img table.qcow2',
    'convert -n -O qcow2 full.img entry.qcow2',
    'convert -n -S 0 -O qcow2 full.img table.qcow2',
    'bench -w -c 1 table.qcow2',
    'bench -w -c 1 entry.qcow2',
    'bench -c 1 entry.qcow2',
    `rebase -b '' entry.qcow2`,
    'rebase -b full.img -F raw entry.qcow2',
    `rebase -b '' ontable.qcow2`,
    'rebase -b table.qcow2 -F qcow2 onraw.qcow2',
    'commit ontable.qcow2',
    'resize --shrink table.qcow2 64k',
    'amend -o compat=0.10 table.qcow2',
    {
      line: 'resize table.qcow2 4M',
      differs: 'lying-map',
      ours: { code: 1, stderr: 'L2 table offset 0x40200 unaligned (L1 index: 0)' },
    },
    {
      line: 'bitmap --add table.qcow2 b',
      differs: 'lying-map',
      ours: { code: 1, stderr: 'L2 table offset 0x40200 unaligned (L1 index: 0)' },
    },
  ],
  { world },
);
