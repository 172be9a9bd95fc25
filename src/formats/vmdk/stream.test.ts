import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectSame, pattern, readAll } from '../../../test/contract/model.ts';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import type { Image } from '../../image/image.ts';
import { createImage, openImage } from '../../image/open.ts';
import { openFileStore } from '../../node.ts';
import { checkImage } from '../../operations/check.ts';
import { convertImages } from '../../operations/convert.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { vmdk } from './index.ts';

const grain = 65536;
const options = { subformat: 'streamOptimized' };

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir('cowherd-stream-');
});
afterAll(() => dir.remove());

/** 100 MB and some sectors, in three tables, mostly empty. */
function content(): Uint8Array {
  const bytes = new Uint8Array(100_000_256);
  for (const [at, length] of [
    [0, 300_000],
    [40_000_000, 90_000],
    [67_108_864, 65_536],
    [99_990_000, 10_256],
  ] as const) {
    bytes.set(pattern(length, at), at);
    bytes.fill(7, at, at + length / 2);
  }
  return bytes;
}

async function packed(bytes: Uint8Array, name = 'image'): Promise<MemoryStore> {
  const store = new MemoryStore({ name: 'image' });
  await createImage(store, 'vmdk', bytes.length, options, { name });
  await using source = await openImage(new MemoryStore({ bytes }), { format: 'raw' });
  await using target = await openImage(store, { format: 'vmdk', writable: true });
  await convertImages([source], target, { targetIsZero: true });
  return store;
}

const open = (store: MemoryStore, writable = false): Promise<Image> =>
  openImage(store, { format: 'vmdk', writable });

describe('a stream', () => {
  it.skipIf(!have('qemu-img'))(
    'is as large as its footer says, where the header says otherwise',
    async () => {
      const bytes = content();
      const file = (await packed(bytes)).toBytes();
      // Found by the fuzzer: the first write made such a disk larger.
      new DataView(file.buffer).setBigUint64(12, 1n, true);
      await writeFile(dir.file('two-sizes.vmdk'), file);
      const info = await mustRun('qemu-img', [
        'info',
        '-f',
        'vmdk',
        '--output=json',
        dir.file('two-sizes.vmdk'),
      ]);
      const store = new MemoryStore({ bytes: file });
      await using image = await open(store);
      expect(image.size).toBe(JSON.parse(info)['virtual-size']);
      expectSame(await readAll(image), bytes, 'all');
    },
  );

  it('is packed unasked, and has markers, tables behind their grains, a directory, a footer and an end', async () => {
    const bytes = content();
    const store = await packed(bytes);
    const file = store.toBytes();
    const view = new DataView(file.buffer);
    expect(view.getBigUint64(56, true)).toBe(0xffffffffffffffffn);
    expect([view.getUint32(4, true), view.getUint32(8, true)]).toEqual([3, 0x30001]);
    const kinds: string[] = [];
    for (let at = Number(view.getBigUint64(64, true)) * 512; at < file.length; ) {
      const value = Number(view.getBigUint64(at, true));
      const size = view.getUint32(at + 8, true);
      if (size > 0) {
        expect(value % 128).toBe(0);
        kinds.push('grain');
        at += Math.ceil((size + 12) / 512) * 512;
        continue;
      }
      kinds.push(['end', 'table', 'directory', 'footer'][view.getUint32(at + 12, true)]);
      at += 512 + value * 512;
    }
    expect(kinds.join(' ').replaceAll(/(grain )+/g, 'grains ')).toBe(
      'grains table grains table grains table directory footer end',
    );
    await using image = await open(store);
    expectSame(await readAll(image), bytes);
    expect(await checkImage(image.layer)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it.skipIf(!have('qemu-img') || !have('7zz') || !have('vmdkinfo'))(
    'is read by QEMU, 7-Zip and libvmdk',
    async () => {
      const bytes = content();
      await writeFile(dir.file('s.vmdk'), (await packed(bytes)).toBytes());
      await writeFile(dir.file('s.raw'), bytes);
      const { path: cwd } = dir;
      await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'vmdk', 's.raw', 's.vmdk'], { cwd });
      await mustRun('qemu-img', ['check', 's.vmdk'], { cwd });
      await mustRun('7zz', ['x', '-so', 's.vmdk'], { cwd, timeout: 60_000 });
      await mustRun('sh', ['-c', '7zz x -so s.vmdk > out && cmp out s.raw'], { cwd });
      expect(await mustRun('vmdkinfo', ['s.vmdk'], { cwd })).toContain('Stream optimized');
    },
  );

  it.skipIf(!have('vmdkmount') || !isRoot || !existsSync('/dev/fuse'))('is mounted by libvmdk', async () => {
    const bytes = content();
    await writeFile(dir.file('m.vmdk'), (await packed(bytes, 'm.vmdk')).toBytes());
    await writeFile(dir.file('m.raw'), bytes);
    const script =
      'mkdir -p mnt && vmdkmount m.vmdk mnt >log 2>&1 && cmp mnt/vmdk1 m.raw; code=$?; umount mnt; exit $code';
    const { code, stdout, stderr } = await run('sh', ['-c', script], { cwd: dir.path });
    expect([code, stdout, stderr]).toEqual([0, '', '']);
  });

  const python = '/usr/bin/python3';
  it.skipIf(!have(python.slice(9)) || !have('qemu-img'))('of VMDKstream and of QEMU is read', async () => {
    const bytes = content();
    await writeFile(dir.file('v.raw'), bytes);
    const there = await run(
      python,
      ['-c', 'import VMDKstream; VMDKstream.convert_to_stream("v.raw", "v.vmdk")'],
      {
        cwd: dir.path,
      },
    );
    if (there.code === 0) {
      await using image = await openImage(await openFileStore(dir.file('v.vmdk')), { format: 'vmdk' });
      expectSame((await readAll(image)).subarray(0, bytes.length), bytes);
    }
    await mustRun(
      'qemu-img',
      ['convert', '-O', 'vmdk', '-o', 'subformat=streamOptimized', 'v.raw', 'q.vmdk'],
      {
        cwd: dir.path,
      },
    );
    await using theirs = await openImage(await openFileStore(dir.file('q.vmdk')), { format: 'vmdk' });
    expectSame(await readAll(theirs), bytes);
    expect(await checkImage(theirs.layer)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('takes more grains when it is opened again, QEMU’s too, and none twice', async () => {
    const bytes = content();
    const stores = [await packed(bytes)];
    if (have('qemu-img')) {
      await writeFile(dir.file('a.raw'), bytes);
      await mustRun(
        'qemu-img',
        ['convert', '-O', 'vmdk', '-o', 'subformat=streamOptimized', 'a.raw', 'a.vmdk'],
        {
          cwd: dir.path,
        },
      );
      stores.push(new MemoryStore({ name: 'image', bytes: await readFile(dir.file('a.vmdk')) }));
    }
    for (const store of stores) {
      const model = bytes.slice();
      for (const at of [200, 3, 1100]) {
        await using image = await open(store, true);
        await image.writePacked(at * grain * 1 + 20 * grain, pattern(grain, at));
        model.set(pattern(grain, at), at * grain + 20 * grain);
        // A part of a grain: the rest of it is zeroes.
        await image.write((at + 40) * grain + 1000, pattern(500, at));
        model.set(pattern(500, at), (at + 40) * grain + 1000);
        await expect(image.write(10, Uint8Array.of(1))).rejects.toMatchObject({ code: 'unsupported' });
        await expect(image.writePacked(0, new Uint8Array(grain))).rejects.toMatchObject({
          message: 'Could not write to allocated cluster for streamOptimized',
        });
      }
      await using image = await open(store);
      expectSame(await readAll(image), model);
      expect(await checkImage(image.layer)).toMatchObject({ corruptions: 0 });
      if (!have('qemu-img')) continue;
      await writeFile(dir.file('b.vmdk'), store.toBytes());
      await writeFile(dir.file('b.raw'), model);
      await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'vmdk', 'b.raw', 'b.vmdk'], { cwd: dir.path });
    }
  });

  it('holds what was flushed wherever its writes are cut', async () => {
    const size = 640 * grain;
    const store = new CutStore();
    await createImage(store, 'vmdk', size, options);
    store.keep();
    const model = new Uint8Array(size);
    for (let round = 0; round < 2; round++) {
      await using image = await open(store, true);
      for (let index = 0; index < 4; index++) {
        const at = (round * 3 + index * 180) * grain;
        await image.writePacked(at, pattern(grain, at + 1));
        if (index % 2 === 1) await image.flush();
        model.set(pattern(grain, at + 1), at);
        if (index % 2 === 1) store.promises.push({ step: store.states.length, bytes: model.slice() });
      }
    }
    for (const [step, state] of store.states.entries()) {
      const promised = store.promises.filter((one) => one.step <= step).at(-1);
      await using image = await open(new MemoryStore({ name: 'image', bytes: state }));
      const seen = await readAll(image);
      for (let at = 0; at < seen.length; at += grain) {
        const unit = seen.subarray(at, at + grain);
        const old = promised?.bytes.subarray(at, at + grain) ?? new Uint8Array(grain);
        if (Buffer.compare(unit, old) === 0) continue;
        expectSame(unit, model.slice(at, at + grain), `grain at ${at} after step ${step}`);
      }
    }
    expect(store.states.length).toBeGreaterThan(20);
  });

  it('is nothing to write in parts, or to resize', async () => {
    const store = await packed(content());
    await using image = await open(store, true);
    expect(vmdk.canPack).toBe(true);
    await expect(image.resize(1024)).rejects.toMatchObject({ code: 'unsupported' });
  });
});

/** Keeps the file as it is after every write and change of size. */
class CutStore extends MemoryStore {
  readonly states: Uint8Array[] = [];
  readonly promises: { step: number; bytes: Uint8Array }[] = [];
  #keeps = false;

  constructor() {
    super({ name: 'image' });
  }

  keep(): void {
    this.#keeps = true;
  }

  override async write(at: number, from: Uint8Array): Promise<void> {
    await super.write(at, from);
    if (this.#keeps) this.states.push(this.toBytes());
  }

  override async resize(size: number): Promise<void> {
    await super.resize(size);
    if (this.#keeps) this.states.push(this.toBytes());
  }
}
