import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mustRun } from '../support/programs.ts';
import { lines, type Row } from './harness.ts';
import { io, patch } from './world.ts';

/*
 * Snapshot tables and bitmap directories past QEMU's limits. Limits of the header stand in world.ts.
 */

const u16 = (value: number) => [value >>> 8, value & 255];
const u32 = (value: number) => [...u16(value >>> 16), ...u16(value & 0xffff)];
const u64 = (high: number, low: number) => [...u32(high), ...u32(low)];

interface Limit {
  readonly image: 'snap' | 'bitmap';
  /** Bytes from the start of the snapshot table, or of the bitmaps header extension's data. */
  readonly at: number;
  readonly bytes: readonly number[];
}

const limits: Readonly<Record<string, Limit>> = {
  snapl1odd: { image: 'snap', at: 0, bytes: u64(0, 0x200) },
  snapl1past: { image: 'snap', at: 0, bytes: u64(0, 0x7fff_0000) },
  snapl1far: { image: 'snap', at: 0, bytes: u64(0x7fff_ffff, 0xffff_0000) },
  snapl1most: { image: 'snap', at: 8, bytes: u32(0x40_0000) },
  snapl1large: { image: 'snap', at: 8, bytes: u32(0x40_0001) },
  snapl1huge: { image: 'snap', at: 8, bytes: u32(0xffff_ffff) },
  snapid: { image: 'snap', at: 12, bytes: u16(0) },
  snapextra: { image: 'snap', at: 36, bytes: u32(1025) },
  snapextrahuge: { image: 'snap', at: 36, bytes: u32(0xffff_fff0) },
  bitmapnone: { image: 'bitmap', at: 0, bytes: u32(0) },
  bitmapmany: { image: 'bitmap', at: 0, bytes: u32(65536) },
  bitmapreserved: { image: 'bitmap', at: 4, bytes: u32(1) },
  directorylarge: { image: 'bitmap', at: 8, bytes: u64(0, 65535 * 1024 + 1) },
  directoryhuge: { image: 'bitmap', at: 8, bytes: u64(0xffff_ffff, 0) },
  directoryodd: { image: 'bitmap', at: 16, bytes: u64(0, 0x200) },
};

async function world(path: string): Promise<void> {
  await mkdir(path);
  const make = (line: string) => mustRun('qemu-img', line.split(' '), { cwd: path });
  await make('create -q -f qcow2 snap.qcow2 1M');
  await io(path, 'qcow2', 'snap.qcow2', 'write -P 8 0 64k');
  await make('snapshot -c first snap.qcow2');
  await make('snapshot -c second snap.qcow2');
  await make('create -q -f qcow2 bitmap.qcow2 1M');
  await make('bitmap --add bitmap.qcow2 b0');
  await make('bitmap --add --disable bitmap.qcow2 b1');
  for (const [name, { image, at, bytes }] of Object.entries(limits)) {
    await mustRun('cp', [`${image}.qcow2`, `${name}.qcow2`], { cwd: path });
    const header = await readFile(join(path, `${name}.qcow2`));
    const base =
      image === 'snap'
        ? Number(header.readBigUInt64BE(64))
        : header.indexOf(Uint8Array.from(u32(0x2385_2875))) + 8;
    await patch(path, `${name}.qcow2`, base + at, bytes);
  }
}

lines(
  'images past the limits of snapshots and bitmaps',
  Object.keys(limits).flatMap((name) => [
    `info ${name}.qcow2`,
    // QEMU fails to read a table there, and says nothing else.
    ...(name === 'snapl1far' ? [] : [`check ${name}.qcow2`]),
    `map --output=json ${name}.qcow2`,
    `snapshot -l ${name}.qcow2`,
  ]),
  { world, readOnly: true },
);

const refused = (line: string, stderr: string): Row => ({
  line,
  differs: 'snapshot-l1',
  ours: { code: 1, stderr },
  files: 'info',
});

lines(
  'changing images past the limits of snapshots and bitmaps',
  [
    refused('snapshot -c n snapl1odd.qcow2', 'Snapshot L1 table offset invalid'),
    refused('snapshot -c n snapl1far.qcow2', 'Snapshot L1 table offset invalid'),
    'snapshot -c n snapextra.qcow2',
    refused('snapshot -a second snapl1large.qcow2', 'Snapshot L1 table too large'),
    ...Object.keys(limits)
      .filter((name) => limits[name].image === 'bitmap')
      .flatMap((name) => [`bitmap --add ${name}.qcow2 n`, `bitmap --remove ${name}.qcow2 b0`])
      .map((line): Row => ({ line, files: 'info' })),
  ],
  { world },
);
