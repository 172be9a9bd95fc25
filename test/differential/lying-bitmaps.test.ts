import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mustRun } from '../support/programs.ts';
import { lines } from './harness.ts';

/*
 * Images whose bitmap directory, or whose bitmaps' tables, cannot be true: refused when they are opened, in QEMU's words.
 * A bitmap that is believed and lies leaves changes out of a backup.
 */

const u16 = (value: number) => Buffer.from([value >>> 8, value & 255]);
const u32 = (value: number) => Buffer.from([24, 16, 8, 0].map((by) => (value >>> by) & 255));
const u64 = (value: number) => Buffer.concat([u32(Math.floor(value / 2 ** 32)), u32(value % 2 ** 32)]);

/** Where it lies: the header extension, the directory's first entry, or the first table. */
type Lie = readonly ['extension' | 'entry' | 'table', number, Uint8Array];

const lies: Readonly<Record<string, Lie>> = {
  'count-1': ['extension', 0, u32(1)],
  'count-3': ['extension', 0, u32(3)],
  'size-0': ['extension', 8, u64(0)],
  'size-short': ['extension', 8, u64(56)],
  'size-long': ['extension', 8, u64(96)],
  'directory-header': ['extension', 16, u64(0)],
  'directory-past': ['extension', 16, u64(0x7000_0000)],
  'table-0': ['entry', 0, u64(0)],
  'table-odd': ['entry', 0, u64(0x10200)],
  'entries-0': ['entry', 8, u32(0)],
  'entries-2': ['entry', 8, u32(2)],
  'entries-most': ['entry', 8, u32(0x800_0001)],
  flag: ['entry', 12, u32(4)],
  'flag-high': ['entry', 12, u32(0x8000_0000)],
  'type-0': ['entry', 16, Buffer.of(0)],
  'type-2': ['entry', 16, Buffer.of(2)],
  'granularity-8': ['entry', 17, Buffer.of(8)],
  'granularity-32': ['entry', 17, Buffer.of(32)],
  'name-long': ['entry', 18, u16(1024)],
  'extra-8': ['entry', 20, u32(8)],
  'extra-most': ['entry', 20, u32(0xffff_fff0)],
  'name-twice': ['entry', 24, Buffer.from('b1')],
  'part-odd': ['table', 0, u64(0x10200)],
  'part-reserved': ['table', 0, u64(0x30002)],
  'part-high': ['table', 0, u64(0x1000_0000_0003_0000)],
};

async function world(path: string): Promise<void> {
  await mkdir(path);
  const image = join(path, 'true.qcow2');
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1M']);
  for (const name of ['b0', 'b1']) await mustRun('qemu-img', ['bitmap', '--add', image, name]);
  const bytes = await readFile(image);
  let extension = bytes.readUInt32BE(100);
  while (bytes.readUInt32BE(extension) !== 0x23852875) {
    extension += 8 + Math.ceil(bytes.readUInt32BE(extension + 4) / 8) * 8;
  }
  const entry = Number(bytes.readBigUInt64BE(extension + 8 + 16));
  const places = { extension: extension + 8, entry, table: Number(bytes.readBigUInt64BE(entry)) };
  for (const [name, [place, at, change]] of Object.entries(lies)) {
    const lying = Buffer.from(bytes);
    lying.set(change, places[place] + at);
    await writeFile(join(path, `${name}.qcow2`), lying);
  }
}

const names = Object.keys(lies).map((name) => `${name}.qcow2`);

lines(
  'bitmaps that cannot be true',
  [
    'info true.qcow2',
    ...names.flatMap((name) => [
      `info ${name}`,
      `check ${name}`,
      `convert -O raw --bitmaps ${name} none/out`,
    ]),
    ...['map', 'measure -O qcow2', 'snapshot -l', 'compare true.qcow2'].flatMap((verb) =>
      ['count-1.qcow2', 'part-odd.qcow2'].map((name) => `${verb} ${name}`),
    ),
  ],
  { readOnly: true, world },
);

lines(
  'bitmaps that cannot be true, in images that would be changed',
  ['count-3.qcow2', 'flag.qcow2', 'name-twice.qcow2', 'part-odd.qcow2'].flatMap((name) => [
    `bitmap --add ${name} b2`,
    `bitmap --remove ${name} b0`,
    `check -r all ${name}`,
    `resize ${name} 2M`,
    `snapshot -c s ${name}`,
  ]),
  { world },
);
