import { copyFile, mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  dataWriteId,
  logEntry,
  makeDifferencingVhdx,
  patchFile,
  setLargeSectors,
  vhdxPlaces,
  writeLog,
} from '../../../test/support/hyper-v-images.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { crc32c } from '../../bytes/crc32c.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { checkImage } from '../../operations/check.ts';
import type { WritableLayer } from '../driver.ts';

const MiB = 1024 * 1024;
const guid = Buffer.from('0123456789abcdef0123456789abcdef', 'hex');

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir('cowherd-vhdx-');
});
afterAll(() => dir.remove());

const open = (path: string, writable = false) => openImageFile(path, { writable, policy: trustedImages });

async function content(path: string): Promise<Buffer> {
  await using image = await open(path);
  const bytes = Buffer.alloc(image.size);
  await image.read(0, bytes);
  return bytes;
}

/** A disk of 8 MiB in blocks of 1 MiB, of which block 1 holds sevens. */
async function make(name: string, options = ''): Promise<string> {
  const path = dir.file(name);
  const list = `block_size=1M,block_state_zero=off${options}`;
  await mustRun('qemu-img', ['create', '-q', '-f', 'vhdx', '-o', list, path, '8M']);
  await mustRun('qemu-io', ['-f', 'vhdx', '-c', 'write -P 7 1M 1M', path]);
  return path;
}

/** The first page of the table of `path`, with one entry changed. */
async function tablePage(path: string, block: number, entry: bigint, base?: Uint8Array): Promise<Buffer> {
  const page = Buffer.from(base ?? (await readFile(path)).subarray(vhdxPlaces.bat, vhdxPlaces.bat + 4096));
  page.writeBigUInt64LE(entry, block * 8);
  return page;
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('the log of a VHDX', () => {
  /** Logs that put block 1's data at block 3 too; `n` times, each time one block further. */
  async function sequence(path: string, count: number, first = 5) {
    const entry = (await readFile(path)).readBigUInt64LE(vhdxPlaces.bat + 8);
    const { size } = await stat(path);
    let page: Buffer | undefined;
    const entries: { at: number; bytes: Buffer }[] = [];
    for (let index = 0; index < count; index++) {
      page = await tablePage(path, 3 + index, entry, page);
      const patches = [{ at: vhdxPlaces.bat, bytes: page }];
      const at = index * 8192;
      entries.push({
        at,
        bytes: logEntry({ guid, sequence: first + index, tail: 0, flushed: size, last: size, patches }),
      });
    }
    return entries;
  }

  async function sevens(path: string): Promise<number[]> {
    const bytes = await content(path);
    return Array.from({ length: 8 }, (_, block) => block).filter((block) => bytes[block * MiB] === 7);
  }

  /** Reads it, replays it with ours, and with QEMU; all say the same. */
  async function judge(path: string, expected: number[], active: boolean): Promise<void> {
    const before = await readFile(path);
    expect(await sevens(path)).toEqual(expected);
    expect((await readFile(path)).equals(before), 'reading changes nothing').toBe(true);
    const [ours, theirs] = [`${path}.ours`, `${path}.theirs`];
    await copyFile(path, ours);
    await copyFile(path, theirs);
    {
      // QEMU refuses two blocks in one place for nothing; for writing, ours does.
      const how = { writable: true, metadataOnly: true, checking: true, policy: trustedImages } as const;
      await using image = await openImageFile(ours, how);
      expect((await checkImage(image.layer, { repair: 'all' })).corruptionsFixed).toBe(active ? 1 : 0);
    }
    await mustRun('qemu-img', ['check', '-q', '-r', 'all', '-f', 'vhdx', theirs]);
    await mustRun('qemu-img', ['compare', '-q', '-f', 'vhdx', '-F', 'vhdx', ours, theirs]);
    await mustRun('qemu-img', ['check', '-q', '-f', 'vhdx', ours]);
    expect(await sevens(ours)).toEqual(expected);
  }

  it('is replayed: one entry, and several', async () => {
    for (const count of [1, 4]) {
      const path = await make(`several-${count}`);
      await writeLog(path, guid, await sequence(path, count));
      await judge(path, [1, 3, 4, 5, 6].slice(0, 1 + count), true);
    }
  });

  it('ends at a torn entry', async () => {
    const path = await make('torn');
    const entries = await sequence(path, 3);
    entries[2].bytes[5000] ^= 1;
    await writeLog(path, guid, entries);
    await judge(path, [1, 3, 4], true);
  });

  it('ends at a gap in the numbers', async () => {
    const path = await make('gap');
    const entries = await sequence(path, 3);
    const stray = await sequence(path, 3, 90);
    await writeLog(path, guid, [
      entries[0],
      entries[1],
      { at: entries[2].at, bytes: stray[0].bytes.subarray(0) },
    ]);
    // Entry 90 says that a replay begins at byte 0, where another sequence lies: on its own it is none.
    expect(await sevens(path)).toEqual([1, 3, 4]);
  });

  it('is empty when its entries have another identifier', async () => {
    const path = await make('foreign');
    const entries = await sequence(path, 2);
    await writeLog(path, Buffer.alloc(16, 0x55), entries);
    await judge(path, [1], false);
  });

  it('goes on at its start, and clears ranges', async () => {
    const path = await make('ring');
    const entry = (await readFile(path)).readBigUInt64LE(vhdxPlaces.bat + 8);
    const { size } = await stat(path);
    const data = Number(entry - 6n);
    const first = logEntry({
      guid,
      sequence: 7,
      tail: MiB - 8192,
      flushed: size,
      last: size,
      patches: [{ at: vhdxPlaces.bat, bytes: await tablePage(path, 3, entry) }],
    });
    const second = logEntry({
      guid,
      sequence: 8,
      tail: MiB - 8192,
      flushed: size,
      last: size + MiB,
      patches: [{ at: data + 4096, zeroes: 8192 }],
    });
    await writeLog(path, guid, [
      { at: MiB - 8192, bytes: first },
      { at: 0, bytes: second },
    ]);
    const bytes = await content(path);
    expect([bytes[MiB], bytes[MiB + 4096], bytes[MiB + 12287], bytes[MiB + 12288], bytes[3 * MiB]]).toEqual([
      7, 0, 0, 7, 7,
    ]);
  });

  it('is a sign of a file cut short when it knew a longer one', async () => {
    const path = await make('short');
    const { size } = await stat(path);
    const patches = [{ at: vhdxPlaces.bat, bytes: await tablePage(path, 3, 0n) }];
    await writeLog(path, guid, [
      { at: 0, bytes: logEntry({ guid, sequence: 1, tail: 0, flushed: size + MiB, patches }) },
    ]);
    await expect(open(path)).rejects.toMatchObject({ code: 'corrupt', field: 'flushed file offset' });
  });
});

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('a VHDX', () => {
  it('is opened by either of its headers, and either region table', async () => {
    for (const at of [64 * 1024 + 100, 128 * 1024 + 100, 192 * 1024 + 100, 256 * 1024 + 100]) {
      const path = await make('copies');
      await patchFile(path, at, Uint8Array.of(1));
      expect((await content(path))[MiB]).toBe(7);
      await using image = await open(path, true);
      await image.write(0, new Uint8Array(512).fill(9));
      await image[Symbol.asyncDispose]();
      expect((await content(path)).subarray(0, 512).every((byte) => byte === 9)).toBe(true);
    }
    const path = await make('none');
    await patchFile(path, 64 * 1024 + 100, Uint8Array.of(1));
    await patchFile(path, 128 * 1024 + 100, Uint8Array.of(1));
    await expect(open(path)).rejects.toMatchObject({ code: 'corrupt', field: 'header' });
  });

  it('gets new identifiers with its first change, its log empty again, everything at whole MiB', async () => {
    const path = await make('rules');
    const before = await dataWriteId(path);
    {
      await using image = await open(path, true);
      await image.write(5 * MiB - 1000, new Uint8Array(2000).fill(3));
    }
    expect(await dataWriteId(path)).not.toBe(before);
    const bytes = await readFile(path);
    for (const at of [64 * 1024, 128 * 1024]) {
      const header = Buffer.from(bytes.subarray(at, at + 4096));
      const sum = header.readUInt32LE(4);
      header.writeUInt32LE(0, 4);
      expect(crc32c(header)).toBe(sum);
    }
    const [first, second] = [64 * 1024, 128 * 1024].map((at) => ({
      at,
      number: bytes.readBigUInt64LE(at + 8),
    }));
    const current = first.number > second.number ? first : second;
    expect(bytes.subarray(current.at + 48, current.at + 64).every((byte) => byte === 0)).toBe(true);
    expect(bytes.length % MiB).toBe(0);
    const check = await run('qemu-img', ['check', '-f', 'vhdx', path]);
    expect(check).toMatchObject({ code: 0, stderr: '' });
  });

  it('has all of its disk with sectors of 4096 bytes', async () => {
    const path = await make('large');
    await setLargeSectors(path);
    {
      await using image = await open(path, true);
      expect(image.size).toBe(8 * MiB);
      await image.write(7 * MiB + 100, new Uint8Array(1000).fill(4));
    }
    const bytes = await content(path);
    expect([bytes[MiB], bytes[2 * MiB - 1], bytes[7 * MiB + 100], bytes[7 * MiB + 1100]]).toEqual([
      7, 7, 4, 0,
    ]);
  });

  it('reads every state of a block that is not there as zeroes', async () => {
    for (const state of [0n, 1n, 2n, 3n, 5n]) {
      const path = await make('states');
      await patchFile(path, vhdxPlaces.bat, (await tablePage(path, 1, state)).subarray(0, 64));
      expect((await content(path)).every((byte) => byte === 0)).toBe(true);
      {
        await using image = await open(path, true);
        await image.write(MiB + 4096, new Uint8Array(512).fill(1));
      }
      await mustRun('qemu-io', ['-f', 'vhdx', '-c', 'read -P 0 1M 4k', '-c', 'read -P 1 1028k 512', path]);
    }
    const path = await make('undefined');
    await patchFile(path, vhdxPlaces.bat, (await tablePage(path, 1, 7n)).subarray(0, 64));
    await expect(open(path)).rejects.toMatchObject({ code: 'corrupt', field: 'block allocation table' });
  });
});

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('a differencing VHDX', () => {
  async function chain(locator: (id: string) => Record<string, string>): Promise<string> {
    const parent = await make('parent.vhdx');
    const child = dir.file('child.vhdx');
    await mustRun('qemu-img', [
      ...['create', '-q', '-f', 'vhdx', '-o', 'block_size=1M,block_state_zero=off', child, '8M'],
    ]);
    await makeDifferencingVhdx(child, locator(await dataWriteId(parent)), [
      { block: 1, from: 8, bytes: new Uint8Array(1024).fill(9) },
      { block: 2, from: 0, bytes: new Uint8Array(512).fill(8) },
    ]);
    return child;
  }

  const model = () => {
    const bytes = Buffer.alloc(8 * MiB);
    bytes.fill(7, MiB, 2 * MiB);
    bytes.fill(9, MiB + 4096, MiB + 5120);
    bytes.fill(8, 2 * MiB, 2 * MiB + 512);
    return bytes;
  };

  it('finds its parent by a relative name, an absolute one, and one of Windows', async () => {
    for (const paths of [
      { relative_path: '.\\parent.vhdx' },
      { absolute_win32_path: dir.file('parent.vhdx') },
      { relative_path: '..\\gone\\parent.vhdx', absolute_win32_path: 'C:\\VMs\\parent.vhdx' },
    ]) {
      const child = await chain((id) => ({ parent_linkage: id, ...paths }) as Record<string, string>);
      expect((await content(child)).equals(model())).toBe(true);
    }
  });

  it('refuses a parent that is not there, or that has changed', async () => {
    const lost = await chain((id) => ({ parent_linkage: id, relative_path: '.\\gone.vhdx' }));
    await expect(open(lost)).rejects.toMatchObject({ code: 'not-found' });
    const child = await chain((id) => ({ parent_linkage: id, relative_path: '.\\parent.vhdx' }));
    {
      await using parent = await open(dir.file('parent.vhdx'), true);
      await parent.write(0, new Uint8Array(512).fill(1));
    }
    await expect(open(child)).rejects.toMatchObject({ code: 'changed', field: 'parent_linkage' });
  });

  it('is written by the sector', async () => {
    const child = await chain((id) => ({ parent_linkage: id, relative_path: '.\\parent.vhdx' }));
    const bytes = model();
    const parent = await readFile(dir.file('parent.vhdx'));
    {
      await using image = await open(child, true);
      const writes: [number, number][] = [
        [MiB + 4000, 3000],
        [2 * MiB - 100, 300],
        [5 * MiB + 77, 1],
        [6 * MiB, 2 * MiB],
      ];
      await Promise.all(
        writes.map(async ([at, length], index) => {
          bytes.fill(20 + index, at, at + length);
          await image.write(at, new Uint8Array(length).fill(20 + index));
        }),
      );
      await image.zero(MiB + 10_000, 5000);
      bytes.fill(0, MiB + 10_000, MiB + 15_000);
    }
    expect((await content(child)).equals(bytes)).toBe(true);
    expect((await readFile(dir.file('parent.vhdx'))).equals(parent)).toBe(true);
  });

  it('opens at every moment of a commit, also where its locator must move', async () => {
    const child = await chain((id) => ({ parent_linkage: id, relative_path: '.\\parent.vhdx' }));
    const bytes = await content(child);
    {
      await using image = await openImageFile(child, {
        writable: true,
        writableBacking: 1,
        policy: trustedImages,
      });
      const parent = image.backing!;
      const layer = image.layer as WritableLayer;
      await layer.expectBacking!(parent.layer);
      const other = await copy('cut-1');
      expect((await content(other)).equals(bytes)).toBe(true);
      await parent.write(0, new Uint8Array(512).fill(1));
      await parent.flush();
      expect((await content(await copy('cut-2'))).subarray(512).equals(bytes.subarray(512))).toBe(true);
      await layer.adoptBacking!(parent.layer);
    }
    expect((await content(child)).subarray(512).equals(bytes.subarray(512))).toBe(true);

    /** The pair as it is on disk now. */
    async function copy(name: string): Promise<string> {
      await mkdir(dir.file(name));
      for (const file of ['parent.vhdx', 'child.vhdx'])
        await copyFile(dir.file(file), join(dir.file(name), file));
      return join(dir.file(name), 'child.vhdx');
    }
  });
});
