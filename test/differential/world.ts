import { mkdir, open, readFile, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  logEntry,
  patchFile,
  setLargeSectors,
  vhdxPlaces,
  writeDifferencingVhd,
  writeLog,
} from '../support/hyper-v-images.ts';
import { mustRun, run } from '../support/programs.ts';

/*
 * The directory that the lines work in: images of every kind that the installed qemu-img makes, chains, names that
 * lead nowhere, and headers that lie. Small and sparse, since it is copied for each line that writes.
 */

/** Builds the directory at `path`, which must not exist. */
export async function buildWorld(path: string): Promise<void> {
  await mkdir(path);
  await makeRaw(path);
  await makeQcow2(path);
  await makeChains(path);
  await makeOddities(path);
  await makeNodes(path);
  await makeLiars(path);
  await makeForeign(path);
}

async function makeRaw(path: string): Promise<void> {
  const image = (line: string) => mustRun('qemu-img', line.split(' '), { cwd: path });
  await image('create -q raw.img 1M');
  await io(path, 'raw', 'raw.img', 'write -P 1 0 64k', 'write -P 2 512k 4k');
  await image('create -q full.img 256k');
  await io(path, 'raw', 'full.img', 'write -P 3 0 256k');
  await writeFile(join(path, 'odd.img'), new Uint8Array(1000).fill(7));
  await writeFile(join(path, 'empty.img'), '');
  await image('create -q big.img 5G');
}

/** Each kind of qcow2 image, by name and creation options. */
const kinds: Readonly<Record<string, string>> = {
  plain: 'compat=1.1',
  v2: 'compat=0.10',
  c512: 'cluster_size=512',
  c4k: 'cluster_size=4k',
  c2m: 'cluster_size=2M',
  lazy: 'lazy_refcounts=on',
  rc1: 'refcount_bits=1',
  rc64: 'refcount_bits=64',
  meta: 'preallocation=metadata',
  full: 'preallocation=full',
};

async function makeQcow2(path: string): Promise<void> {
  for (const [name, options] of Object.entries(kinds)) {
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, `${name}.qcow2`, '2M'], {
      cwd: path,
    });
  }
  for (const name of ['plain', 'v2', 'c512', 'c4k', 'c2m', 'rc1', 'rc64']) {
    await io(path, 'qcow2', `${name}.qcow2`, 'write -P 5 0 128k', 'write -P 6 1M 5k', 'write -z 512k 64k');
  }
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', 'empty.qcow2', '0'], { cwd: path });
  await mustRun('qemu-img', ['convert', '-c', '-O', 'qcow2', 'plain.qcow2', 'packed.qcow2'], { cwd: path });
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', 'snap.qcow2', '1M'], { cwd: path });
  await io(path, 'qcow2', 'snap.qcow2', 'write -P 8 0 64k');
  await mustRun('qemu-img', ['snapshot', '-c', 'first', 'snap.qcow2'], { cwd: path });
  await mustRun('qemu-img', ['snapshot', '-c', 'the second one', 'snap.qcow2'], { cwd: path });
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', 'bitmap.qcow2', '1M'], { cwd: path });
  await mustRun('qemu-img', ['bitmap', '--add', 'bitmap.qcow2', 'b0'], { cwd: path });
  await mustRun('qemu-img', ['bitmap', '--add', '--disable', '-g', '4k', 'bitmap.qcow2', 'b1'], {
    cwd: path,
  });
  // A program that died while it had the image open leaves its bitmaps in use.
  await mustRun('cp', ['bitmap.qcow2', 'inuse.qcow2'], { cwd: path });
  await run('qemu-io', ['-f', 'qcow2', '-c', 'write 0 64k', '-c', 'abort', 'inuse.qcow2'], { cwd: path });
  await mustRun('qemu-img', ['bitmap', '--add', 'inuse.qcow2', 'whole'], { cwd: path });
}

async function makeChains(path: string): Promise<void> {
  const clone = (options: string, name: string, size = '') =>
    mustRun('qemu-img', `create -q -f qcow2 ${options} ${name} ${size}`.trim().split(' '), { cwd: path });
  await clone('-b plain.qcow2 -F qcow2', 'mid.qcow2');
  await io(path, 'qcow2', 'mid.qcow2', 'write -P 9 64k 64k');
  await clone('-b mid.qcow2 -F qcow2', 'top.qcow2', '3M');
  await io(path, 'qcow2', 'top.qcow2', 'write -P 10 192k 10k');
  await clone('-b raw.img -F raw', 'overraw.qcow2');
  await clone('-b plain.qcow2 -F qcow2 -o compat=0.10', 'overv2.qcow2', '1M');
  await clone('-b plain.qcow2 -F qcow2', 'short.qcow2', '1M');
  await mkdir(join(path, 'dir'));
  await clone('-b ../mid.qcow2 -F qcow2', 'dir/clone.qcow2');
  await mustRun('qemu-img', 'create -q -f qcow2 -o data_file=own.data outside.qcow2 1M'.split(' '), {
    cwd: join(path, 'dir'),
  });
  await clone('-u -b nowhere.qcow2 -F qcow2', 'orphan.qcow2', '1M');
  await clone('-b orphan.qcow2 -F qcow2 -u', 'grandchild.qcow2', '1M');
  await clone('-u -b raw.img -F qcow2', 'wrongformat.qcow2', '1M');
  await clone('-u -b loop2.qcow2 -F qcow2', 'loop1.qcow2', '1M');
  await clone('-u -b loop1.qcow2 -F qcow2', 'loop2.qcow2', '1M');
  await clone('-u -b nbd://localhost:1/x -F raw', 'remote.qcow2', '1M');
  await clone('-u -b file:plain.qcow2 -F qcow2', 'prefixed.qcow2', '1M');
  // Without a backing format, as older programs wrote them: the extension's type is made an unknown one.
  await clone('-b plain.qcow2 -F qcow2', 'noformat.qcow2');
  await patch(path, 'noformat.qcow2', 112, [0x6e, 0x6f, 0x6e, 0x65]);
  for (const [name, target] of [
    ['link.qcow2', 'top.qcow2'],
    ['dangling.qcow2', 'nothing'],
    ['linkloop', 'linkloop'],
  ]) {
    await symlink(target, join(path, name));
  }
}

/** Backing files that are named by protocol or by `json:{…}`, and rules for blkdebug. */
async function makeNodes(path: string): Promise<void> {
  const backings: readonly (readonly [name: string, backing: string, format: string])[] = [
    ['onjson', 'json:{"driver":"raw","file":{"driver":"file","filename":"raw.img"}}', 'raw'],
    ['onwindow', 'json:{"driver":"raw","offset":524288,"size":262144,"file":{"filename":"raw.img"}}', 'raw'],
    ['onnested', 'json:{"driver":"qcow2","file.driver":"raw","file.file.filename":"mid.qcow2"}', 'qcow2'],
    ['onnull', 'null-co://', 'raw'],
    ['ondebug', 'blkdebug::raw.img', 'raw'],
    ['onbadjson', 'json:{"driver":"raw"', 'raw'],
    ['onssh', 'ssh://nowhere/x', 'raw'],
  ];
  for (const [name, backing, format] of backings) {
    const options = ['-u', '-f', 'qcow2', '-b', backing, '-F', format, `${name}.qcow2`, '1M'];
    await mustRun('qemu-img', ['create', '-q', ...options], { cwd: path });
  }
  const once = '[inject-error]\nevent = "l2_load"\nerrno = "5"\nonce = "on"\n';
  await writeFile(join(path, 'once.conf'), once);
  const later =
    '# comment\n[set-state]\nstate = "1"\nevent = "l2_load"\nnew_state = "2"\n' +
    '[inject-error]\nstate = "2"\nevent = "read_aio"\nimmediately = "off"\n';
  await writeFile(join(path, 'state.conf'), later);
  await writeFile(join(path, 'bad.conf'), '[foo]\n');
}

async function makeOddities(path: string): Promise<void> {
  await mustRun('mkfifo', [join(path, 'fifo')]);
  await mkdir(join(path, 'folder'));
  await mustRun('qemu-img', ['create', '-q', '-f', 'vmdk', 'foreign.vmdk', '1M'], { cwd: path });
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', 'a,b c.qcow2', '1M'], { cwd: path });
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', './with:colon.qcow2', '1M'], { cwd: path });
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', 'bäh.qcow2', '1M'], { cwd: path });
}

/** A header that lies: bytes that replace those of an image like `plain.qcow2` (or `v2`), by offset. */
interface Liar {
  readonly from?: 'plain' | 'v2' | 'mid';
  readonly at: number;
  readonly bytes: readonly number[];
  readonly size?: number;
}

const u32 = (value: number) => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
const u64 = (high: number, low: number) => [...u32(high), ...u32(low)];

const liars: Readonly<Record<string, Liar>> = {
  cut8: { at: 0, bytes: [], size: 8 },
  cut50: { at: 0, bytes: [], size: 50 },
  cut110: { at: 0, bytes: [], size: 110 },
  cut100k: { at: 0, bytes: [], size: 100_000 },
  magic: { at: 0, bytes: [0x51, 0x46, 0x49, 0xfa] },
  version1: { at: 4, bytes: u32(1) },
  version4: { at: 4, bytes: u32(4) },
  backingoffset: { at: 8, bytes: u64(0, 0x20000) },
  backinginheader: { at: 8, bytes: u64(0, 50) },
  backinglong: { from: 'mid', at: 16, bytes: u32(2000) },
  backingzero: { from: 'mid', at: 16, bytes: u32(0) },
  bits8: { at: 20, bytes: u32(8) },
  bits22: { at: 20, bytes: u32(22) },
  bits64: { at: 20, bytes: u32(0x40) },
  size63: { at: 24, bytes: u64(0x80000000, 0) },
  sizemax: { at: 24, bytes: u64(0xffffffff, 0xffffffff) },
  size1p: { at: 24, bytes: u64(0x40000, 0) },
  sizeodd: { at: 24, bytes: u64(0, 1_000_001) },
  size0: { at: 24, bytes: u64(0, 0) },
  crypt1: { at: 32, bytes: u32(1) },
  crypt2: { at: 32, bytes: u32(2) },
  crypt3: { at: 32, bytes: u32(3) },
  l1size0: { at: 36, bytes: u32(0) },
  l1sizehuge: { at: 36, bytes: u32(0xffffffff) },
  l1sizelarge: { at: 36, bytes: u32(0x3fffff) },
  l1odd: { at: 40, bytes: u64(0, 0x30200) },
  l1past: { at: 40, bytes: u64(0, 0x7fff0000) },
  l1far: { at: 40, bytes: u64(0x7fffffff, 0xffff0000) },
  l1zero: { at: 40, bytes: u64(0, 0) },
  rtodd: { at: 48, bytes: u64(0, 0x10100) },
  rtpast: { at: 48, bytes: u64(0, 0x70000000) },
  rtfar: { at: 48, bytes: u64(0xffffffff, 0xffff0000) },
  rtzero: { at: 48, bytes: u64(0, 0) },
  rtclusters0: { at: 56, bytes: u32(0) },
  rtclustershuge: { at: 56, bytes: u32(0x10000) },
  snapcount: { at: 60, bytes: u32(0x7fffffff) },
  snapone: { at: 60, bytes: u32(1) },
  snapodd: { at: 60, bytes: [...u32(1), ...u64(0, 0x100)] },
  snappast: { at: 60, bytes: [...u32(1), ...u64(0, 0x50000000)] },
  dirty: { at: 72, bytes: u64(0, 1) },
  corrupt: { at: 72, bytes: u64(0, 2) },
  datafile: { at: 72, bytes: u64(0, 4) },
  zlibbit: { at: 72, bytes: u64(0, 8) },
  incompat5: { at: 72, bytes: u64(0, 32) },
  incompat63: { at: 72, bytes: u64(0x80000000, 32) },
  compat9: { at: 80, bytes: u64(0, 512) },
  autoclear9: { at: 88, bytes: u64(0, 512) },
  rawdata: { at: 88, bytes: u64(0, 2) },
  order7: { at: 96, bytes: u32(7) },
  orderhuge: { at: 96, bytes: u32(0xffffffff) },
  header80: { at: 100, bytes: u32(80) },
  header106: { at: 100, bytes: u32(106) },
  headerhuge: { at: 100, bytes: u32(0x20000) },
  zstdnobit: { at: 104, bytes: [1] },
  comp7: { at: 104, bytes: [7] },
  extlong: { at: 112, bytes: [...u32(0x12345678), ...u32(0x7fffffff)] },
  extunknown: { at: 112, bytes: [...u32(0x12345678), ...u32(16)] },
  fmtlong: { from: 'mid', at: 116, bytes: u32(300) },
  l1reserved: { at: 0x30000, bytes: u64(0xff000000, 0x40001) },
  l2odd: { at: 0x30000, bytes: u64(0x80000000, 0x40200) },
  l2past: { at: 0x30000, bytes: u64(0x80000000, 0x70000000) },
  v2features: { from: 'v2', at: 72, bytes: u64(0, 2) },
};

async function makeLiars(path: string): Promise<void> {
  await mkdir(join(path, 'bad'));
  for (const [name, liar] of Object.entries(liars)) {
    const file = join(path, 'bad', `${name}.qcow2`);
    await mustRun('cp', ['--sparse=always', join(path, `${liar.from ?? 'plain'}.qcow2`), file]);
    await patch(path, `bad/${name}.qcow2`, liar.at, liar.bytes);
    if (liar.size !== undefined) await truncate(file, liar.size);
  }
}

/** The names of the lying images, for lines over all of them: `bad/NAME.qcow2`. */
export const liarNames: readonly string[] = Object.keys(liars);

/** A chain of `count` images `NNN.qcow2`, the last of which stands on all the others. */
export async function buildChain(path: string, count: number): Promise<void> {
  await mkdir(path, { recursive: true });
  const image = (line: string) => mustRun('qemu-img', line.split(' '), { cwd: path });
  await image('create -q -f qcow2 -o cluster_size=512 000.qcow2 64k');
  await image('create -q -u -f qcow2 -o cluster_size=512 -b 000.qcow2 -F qcow2 001.qcow2 64k');
  // The others are copies of the second in which the name of the one below is changed.
  const overlay = await readFile(join(path, '001.qcow2'));
  const nameAt = Number(overlay.readBigUInt64BE(8));
  const number = (index: number) => String(index).padStart(3, '0');
  for (let index = 2; index < count; index++) {
    overlay.write(number(index - 1), nameAt, 'latin1');
    await writeFile(join(path, `${number(index)}.qcow2`), overlay);
  }
}

/** Runs commands of qemu-io on an image in `path`. */
export async function io(path: string, format: string, name: string, ...commands: string[]): Promise<void> {
  await mustRun('qemu-io', ['-f', format, ...commands.flatMap((command) => ['-c', command]), name], {
    cwd: path,
  });
}

/** Puts bytes over those of a file in `path`. */
export async function patch(path: string, name: string, at: number, bytes: readonly number[]): Promise<void> {
  const file = await open(join(path, name), 'r+');
  await file.write(Uint8Array.from(bytes), 0, bytes.length, at);
  await file.close();
}

/** Images in the formats of other programs. */
async function makeForeign(path: string): Promise<void> {
  const create = (line: string) => mustRun('qemu-img', `create -q ${line}`.split(' '), { cwd: path });
  await create('-f vpc dynamic.vhd 5M');
  await io(path, 'vpc', 'dynamic.vhd', 'write -P 5 1M 64k', 'write -P 6 4M 5k');
  await create('-f vpc -o subformat=fixed fixed.vhd 1M');
  await io(path, 'vpc', 'fixed.vhd', 'write -P 5 64k 64k');
  await create('-f vpc -o force_size=on exact.vhd 1M');
  await create('-f vhdx -o block_size=1M dynamic.vhdx 5M');
  await io(path, 'vhdx', 'dynamic.vhdx', 'write -P 5 1M 64k', 'write -P 6 4M 5k');
  await mustRun('cp', ['dynamic.vhdx', 'cut.vhdx'], { cwd: path });
  await truncate(join(path, 'cut.vhdx'), 9 * 1024 * 1024 + 512 * 1024);
  await mustRun('cp', ['dynamic.vhdx', 'logged.vhdx'], { cwd: path });
  const guid = new Uint8Array(16).fill(0x77);
  const patches = [{ at: vhdxPlaces.bat, bytes: new Uint8Array(4096) }];
  const bytes = logEntry({ guid, sequence: 1, tail: 0, patches });
  await writeLog(join(path, 'logged.vhdx'), guid, [{ at: 0, bytes }]);
  await mustRun('cp', ['dynamic.vhdx', 'sectors.vhdx'], { cwd: path });
  await setLargeSectors(join(path, 'sectors.vhdx'));
  await mustRun('cp', ['dynamic.vhd', 'broken.vhd'], { cwd: path });
  await patchFile(join(path, 'broken.vhd'), 100, Uint8Array.of(1));
  const locators = [{ platform: 'W2ru', path: '.\\dynamic.vhd' }] as const;
  const own = [{ block: 0, from: 0, bytes: new Uint8Array(512).fill(9) }];
  await writeDifferencingVhd(join(path, 'child.vhd'), join(path, 'dynamic.vhd'), locators, own);
}
