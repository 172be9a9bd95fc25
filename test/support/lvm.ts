import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { crc32Register } from '../../src/bytes/crc32.ts';
import { haveLoops } from '../lab/loop-device.ts';
import { have, mustRun } from './programs.ts';

/** Whether lvm's programs can lay out a disk here: for that they need loop devices, and nothing of the kernel's half. */
export const haveLvm = haveLoops && have('pvcreate') && have('sfdisk');

const MiB = 1024 * 1024;
/** lvm's default, within the physical volume. */
export const firstExtent = MiB;
const areaAt = 4096;
const headerBytes = 512;

export interface LvmDiskOptions {
  /** Bytes; > 0: the physical volume is a partition. */
  readonly start: number;
  readonly length: number;
  /** Places of metadata; default 1. */
  readonly areas?: number;
  /** Bytes of a second physical volume of the group, in the partition behind the first one. */
  readonly second?: number;
}

/** Metadata in which `swap` is what a snapshot of `root-lv` keeps, as vgcfgbackup shows it. */
export function withSnapshot(text: string): string {
  const segment =
    'segment1 { start_extent = 0 extent_count = 20 type = "snapshot" chunk_size = 16 origin = "root-lv" cow_store = "swap" }';
  const snapshot = `snapshot0 { id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAAA" status = ["READ", "WRITE"] flags = [] segment_count = 1 ${segment} }`;
  return text.replace('logical_volumes {', (found) => `${found}\n${snapshot}`);
}

/** A disk whose group `vg-a` lvm itself lays out, in extents of 1 MiB. No logical volume is ever active. */
export class LvmDisk {
  readonly path: string;
  readonly group = 'vg-a';
  readonly #start: number;
  readonly #length: number;
  readonly #second: number;

  private constructor(path: string, start: number, length: number, second: number) {
    this.path = path;
    this.#start = start;
    this.#length = length;
    this.#second = second;
  }

  /** `start` > 0: in a partition of type 8e there. */
  static async make(path: string, options: LvmDiskOptions): Promise<LvmDisk> {
    const { start, length, areas = 1, second = 0 } = options;
    rmSync(path, { force: true });
    await mustRun('truncate', ['-s', String(start + length + second), path]);
    if (start > 0) {
      const parts = [`start=${start / 512}, size=${length / 512}, type=8e`];
      if (second > 0) parts.push(`start=${(start + length) / 512}, size=${second / 512}, type=8e`);
      await mustRun('sfdisk', ['-q', path], { input: `label: dos\n${parts.join('\n')}\n` });
    }
    const disk = new LvmDisk(path, start, length, second);
    const copies = ['--metadatacopies', String(areas)];
    await disk.#onDevices((devices) => disk.#lvm(devices, 'pvcreate', ['-q', ...copies, ...devices]));
    await disk.#onDevices((devices) => disk.#lvm(devices, 'vgcreate', ['-s', '1M', disk.group, ...devices]));
    return disk;
  }

  /** The same disk in another file. */
  async copyTo(path: string): Promise<LvmDisk> {
    await mustRun('cp', ['--sparse=always', this.path, path]);
    return new LvmDisk(path, this.#start, this.#length, this.#second);
  }

  /** One of lvm's programs; `lvcreate` gets the group. */
  async run(program: string, args: readonly string[]): Promise<string> {
    const more = program === 'lvcreate' ? ['-an', '-Zn', '-Wn', '-y', ...args, this.group] : args;
    return this.#onDevices((devices) => this.#lvm(devices, program, more));
  }

  /** The group's and the volume's, as udev names the volume. */
  async uuidOf(name: string): Promise<string> {
    const shown = await this.run('lvs', ['--noheadings', '-o', 'vg_uuid,lv_uuid', `${this.group}/${name}`]);
    return shown.replaceAll(/[-\s]/g, '');
  }

  /** Makes ext4 with these files, and lays it where lvm says that the volume's extents are. */
  async makeExt4(
    name: string,
    bytes: number,
    files: Readonly<Record<string, Buffer>>,
    options: readonly string[] = [],
  ): Promise<void> {
    const work = mkdtempSync(join(dirname(this.path), 'ext4-'));
    const tree = join(work, 'tree');
    mkdirSync(tree);
    for (const [path, content] of Object.entries(files)) {
      mkdirSync(dirname(join(tree, path)), { recursive: true });
      writeFileSync(join(tree, path), content);
    }
    const made = join(work, 'made');
    const common = ['-q', '-F', '-b', '4096', '-O', '^has_journal', ...options];
    await mustRun('mkfs.ext4', [...common, '-d', tree, made, `${bytes / 1024}k`]);
    let done = 0;
    for (const [from, count] of await this.extentsOf(name)) {
      const place = this.#start + firstExtent + from * MiB;
      const dd = [`if=${made}`, `of=${this.path}`, 'bs=1M', `skip=${done}`, `count=${count}`];
      await mustRun('dd', [...dd, `seek=${place}`, 'oflag=seek_bytes', 'conv=notrunc', 'status=none']);
      done += count;
    }
    rmSync(work, { recursive: true });
  }

  /** First extent and number of each piece, in order, as lvm shows them. */
  async extentsOf(name: string): Promise<readonly (readonly [number, number])[]> {
    const what = ['--noheadings', '--segments', '-o', 'seg_pe_ranges', `${this.group}/${name}`];
    const shown = await this.run('lvs', what);
    return [...shown.matchAll(/:(\d+)-(\d+)/g)].map(([, from, to]) => [
      Number(from),
      Number(to) - Number(from) + 1,
    ]);
  }

  /** Writes other metadata, with the checksums that belong to it. */
  async edit(change: (text: string) => string): Promise<void> {
    const fd = openSync(this.path, 'r+');
    try {
      const header = this.#header(fd);
      const old = Buffer.alloc(Number(header.readBigUInt64LE(48)));
      readSync(fd, old, 0, old.length, this.#start + areaAt + Number(header.readBigUInt64LE(40)));
      const before = old.toString();
      const text = Buffer.from(change(before));
      if (text.toString() === before) throw new Error('the change changes nothing');
      writeSync(fd, text, 0, text.length, this.#start + areaAt + headerBytes);
      header.writeBigUInt64LE(BigInt(headerBytes), 40);
      header.writeBigUInt64LE(BigInt(text.length), 48);
      header.writeUInt32LE(crc32Register(0xf597a6cf, text), 56);
      header.writeUInt32LE(crc32Register(0xf597a6cf, header.subarray(4)), 0);
      writeSync(fd, header, 0, headerBytes, this.#start + areaAt);
    } finally {
      closeSync(fd);
    }
  }

  /** Where the valid text begins within the file. */
  textAt(): number {
    const fd = openSync(this.path, 'r');
    try {
      return this.#start + areaAt + Number(this.#header(fd).readBigUInt64LE(40));
    } finally {
      closeSync(fd);
    }
  }

  #header(fd: number): Buffer {
    const header = Buffer.alloc(headerBytes);
    readSync(fd, header, 0, headerBytes, this.#start + areaAt);
    return header;
  }

  #lvm(devices: readonly string[], program: string, args: readonly string[]): Promise<string> {
    const filter = devices.map((device) => `"a|^${device}$|",`).join('');
    const config = `devices{filter=[${filter}"r|.*|"] use_devicesfile=0} backup{backup=0 archive=0}`;
    return mustRun(program, ['--driverloaded', 'n', '--config', config, ...args]);
  }

  async #onDevices<Result>(use: (devices: readonly string[]) => Promise<Result>): Promise<Result> {
    const devices: string[] = [];
    try {
      for (const [start, length] of [
        [this.#start, this.#length],
        [this.#start + this.#length, this.#second],
      ]) {
        if (length === 0) continue;
        const range = ['-o', String(start), '--sizelimit', String(length)];
        devices.push((await mustRun('losetup', ['-f', '--show', ...range, this.path])).trim());
      }
      return await use(devices);
    } finally {
      for (const device of devices) await mustRun('losetup', ['-d', device]);
    }
  }
}
