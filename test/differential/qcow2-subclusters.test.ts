import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mustRun } from '../support/programs.ts';
import { lines, type Row } from './harness.ts';
import { io, patch } from './world.ts';

/*
 * Images with extended L2 entries under every verb, and entries that cannot be, or need not be.
 */

/** What is put into the words of the first L2 entries, by 64 bits: [entry, which half, high, low]. */
const damages: Readonly<Record<string, readonly [entry: number, half: 0 | 1, high: number, low: number][]>> =
  {
    both: [[0, 1, 0x0000_0003, 0x0000_0003]],
    holebits: [[20, 1, 0, 0x0000_000f]],
    holezeroes: [[20, 1, 0xffff_0000, 0]],
    copiedhole: [[20, 0, 0x8000_0000, 0]],
    zerobit: [[0, 0, 0, 0]],
    noflag: [[0, 0, 0, 0]],
    far: [[0, 0, 0x8000_7000, 0]],
    odd: [[0, 0, 0x8000_0000, 0x0005_0200]],
  };

async function world(path: string): Promise<void> {
  await mkdir(path);
  const make = (line: string) => mustRun('qemu-img', line.split(' '), { cwd: path });
  await make('create -q -f qcow2 -o extended_l2=on plain.qcow2 2M');
  const fill = [
    'write -P 5 0 3k',
    'write -P 6 70k 100k',
    'write -z 8k 4k',
    'write -z 512k 128k',
    'discard 90k 8k',
  ];
  await io(path, 'qcow2', 'plain.qcow2', ...fill);
  await make('create -q -f qcow2 -o extended_l2=on,cluster_size=16k -b plain.qcow2 -F qcow2 mid.qcow2 3M');
  await io(path, 'qcow2', 'mid.qcow2', 'write -P 7 1k 2k', 'write -z 80k 1k', 'write -P 8 2M 5k');
  await make('create -q -f qcow2 -o extended_l2=on -b mid.qcow2 -F qcow2 top.qcow2');
  await io(path, 'qcow2', 'top.qcow2', 'write -P 9 74k 2k');
  await make('convert -c -O qcow2 -o extended_l2=on plain.qcow2 packed.qcow2');
  await make('convert -O qcow2 mid.qcow2 orphan.qcow2');
  await mustRun('cp', ['plain.qcow2', 'snap.qcow2'], { cwd: path });
  await make('snapshot -c s snap.qcow2');
  await io(path, 'qcow2', 'snap.qcow2', 'write -P 4 2k 2k');
  await make('bitmap --add -g 64k snap.qcow2 b');
  await io(path, 'qcow2', 'snap.qcow2', 'write -P 4 1M 2k');
  for (const [name, edits] of Object.entries(damages)) {
    await mustRun('cp', ['plain.qcow2', `${name}.qcow2`], { cwd: path });
    for (const edit of edits) await damage(path, `${name}.qcow2`, name, edit);
  }
  await mustRun('cp', ['packed.qcow2', 'packedbits.qcow2'], { cwd: path });
  await damage(path, 'packedbits.qcow2', 'packedbits', [0, 1, 0x1, 0x2]);
  // What QEMU warns of is the same for an overlay.
  await make('create -q -f qcow2 -b both.qcow2 -F qcow2 wrongformat.qcow2');
}

async function damage(
  path: string,
  file: string,
  name: string,
  [entry, half, high, low]: readonly [entry: number, half: 0 | 1, high: number, low: number],
): Promise<void> {
  const bytes = await readFile(join(path, file));
  const l1 = Number(bytes.readBigUInt64BE(40));
  const at = Number(bytes.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n) + entry * 16 + half * 8;
  const words = Buffer.alloc(8);
  words.writeUInt32BE(high, 0);
  words.writeUInt32BE(low, 4);
  if (name === 'zerobit' || name === 'noflag') {
    words.writeBigUInt64BE(bytes.readBigUInt64BE(at) & ~(1n << 63n));
    if (name === 'zerobit') words.writeBigUInt64BE(bytes.readBigUInt64BE(at) | 1n);
  }
  await patch(path, file, at, [...words]);
}

const images = [
  'plain',
  'mid',
  'top',
  'packed',
  'snap',
  ...Object.keys(damages),
  'packedbits',
  'wrongformat',
];

/** It stops in a run that would go on over the entry. */
const stopsShort = (line: string, offset: number): Row => ({
  line,
  differs: 'subcluster-run',
  ours: { code: 1, stderr: `block status at offset ${offset}: Input/output error` },
});

lines(
  'reading images with subclusters',
  images.flatMap((name) => [
    `info ${name}.qcow2`,
    `map ${name}.qcow2`,
    name === 'holebits'
      ? { ...stopsShort(`map --output=json ${name}.qcow2`, 0), ours: { code: 1, stderr: 'L2 index: 0x14' } }
      : `map --output=json ${name}.qcow2`,
    `check ${name}.qcow2`,
    `check --output=json ${name}.qcow2`,
    `compare ${name}.qcow2 plain.qcow2`,
  ]),
  { world, readOnly: true },
);

const contents = (line: string): Row => ({ line, files: 'contents' });
// Two images with the same damage cannot be compared, and a cluster that a repair frees keeps its bytes here.
const info = (line: string): Row => ({ line, files: 'info' });

lines(
  'changing images with subclusters',
  [
    ...[...Object.keys(damages), 'packedbits'].flatMap((name) => [
      info(`check -r leaks ${name}.qcow2`),
      info(`check -r all ${name}.qcow2`),
      name === 'holebits'
        ? stopsShort(`convert -f qcow2 -O raw ${name}.qcow2 new.raw`, 20 * 65536)
        : ({
            line: `convert -f qcow2 -O raw ${name}.qcow2 new.raw`,
            filesDifferIfRefused: 'failed-create',
          } as const),
    ]),
    ...['mid', 'top', 'packed', 'snap'].flatMap((name) => [
      contents(`resize ${name}.qcow2 +70k`),
      contents(`resize --shrink ${name}.qcow2 71k`),
      contents(`snapshot -c n ${name}.qcow2`),
    ]),
    ...['both', 'holebits', 'odd'].flatMap((name) => [
      info(`resize ${name}.qcow2 +70k`),
      info(`resize --shrink ${name}.qcow2 71k`),
      info(`snapshot -c n ${name}.qcow2`),
    ]),
    contents('commit top.qcow2'),
    contents('commit -d top.qcow2'),
    contents('commit -b plain.qcow2 top.qcow2'),
    contents('commit mid.qcow2'),
    contents('rebase -b plain.qcow2 -F qcow2 top.qcow2'),
    contents('rebase -b orphan.qcow2 -F qcow2 mid.qcow2'),
    contents('rebase -b "" mid.qcow2'),
    contents('rebase -u -b orphan.qcow2 -F qcow2 mid.qcow2'),
    contents('bitmap --add -g 32k mid.qcow2 n'),
    contents('bitmap --clear snap.qcow2 b'),
    contents('bitmap --remove snap.qcow2 b'),
    info('snapshot -a s snap.qcow2'),
    contents('snapshot -d s snap.qcow2'),
    contents('convert -l s -O qcow2 snap.qcow2 new.qcow2'),
    contents('convert --bitmaps -O qcow2 -o extended_l2=on snap.qcow2 new.qcow2'),
    'amend -o compat=0.10 plain.qcow2',
    contents('amend -o lazy_refcounts=on plain.qcow2'),
    contents('amend -o refcount_bits=64 plain.qcow2'),
  ],
  { world },
);
