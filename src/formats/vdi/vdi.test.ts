import { readdir, readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectSame, pattern, readAll } from '../../../test/contract/model.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { trustedImages } from '../../image/policy.ts';
import { openImageFile } from '../../node.ts';
import { checkImage } from '../../operations/check.ts';

const MiB = 1 << 20;
let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir();
});
afterAll(() => dir.remove());

/** A VDI as VirtualBox lays one out: map and data at megabytes, UUIDs as given. */
function vdiFile(options: {
  readonly type: number;
  readonly map: readonly number[];
  readonly blocks: readonly Uint8Array[];
  readonly uuid: number;
  readonly parent?: number;
  readonly parentModification?: number;
  readonly size?: number;
}): Buffer {
  const { type, map, blocks } = options;
  const file = Buffer.alloc(2 * MiB + blocks.length * MiB);
  file.write('<<< Oracle VM VirtualBox Disk Image >>>\n');
  file.writeUInt32LE(0xbeda107f, 0x40);
  file.writeUInt32LE(0x10001, 0x44);
  file.writeUInt32LE(0x190, 0x48);
  file.writeUInt32LE(type, 0x4c);
  file.writeUInt32LE(MiB, 0x154);
  file.writeUInt32LE(2 * MiB, 0x158);
  file.writeUInt32LE(512, 0x168);
  file.writeBigUInt64LE(BigInt(options.size ?? map.length * MiB), 0x170);
  file.writeUInt32LE(MiB, 0x178);
  file.writeUInt32LE(map.length, 0x180);
  file.writeUInt32LE(map.filter((entry) => entry < 0xffff_fffe).length, 0x184);
  file.fill(options.uuid, 0x188, 0x198);
  file.fill(options.uuid + 0x80, 0x198, 0x1a8);
  if (options.parent !== undefined) {
    file.fill(options.parent, 0x1a8, 0x1b8);
    file.fill(options.parentModification ?? options.parent + 0x80, 0x1b8, 0x1c8);
  }
  for (const [index, entry] of map.entries()) file.writeUInt32LE(entry, MiB + index * 4);
  for (const [index, block] of blocks.entries()) file.set(block, (2 + index) * MiB);
  return file;
}

const free = 0xffff_ffff;
const zero = 0xffff_fffe;

describe('a VDI image as VirtualBox writes it', () => {
  it.each([
    ['dynamic', 1, [1, free, 0, zero]],
    ['static', 2, [0, 1, 2, 3]],
  ] as const)('%s: reads as QEMU and 7-Zip read it', async (name, type, map) => {
    const blocks = map.filter((entry) => entry < zero).map((_, index) => pattern(MiB, index));
    const path = dir.file(`${name}.vdi`);
    await writeFile(path, vdiFile({ type, map, blocks, uuid: 1 }));
    const model = new Uint8Array(4 * MiB);
    for (const [index, entry] of map.entries()) if (entry < zero) model.set(blocks[entry], index * MiB);
    await using image = await openImageFile(path);
    expectSame(await readAll(image), model);
    await writeFile(dir.file('model'), model);
    if (have('qemu-img')) {
      const compared = await run('qemu-img', ['compare', '-F', 'vdi', '-f', 'raw', dir.file('model'), path]);
      expect(compared.stdout).toBe('Images are identical.\n');
    }
    if (have('7zz')) {
      await mustRun('7zz', ['e', '-y', '-tvdi', `-o${dir.file(`out-${name}`)}`, path]);
      const [extracted] = await readdir(dir.file(`out-${name}`));
      expectSame(await readFile(dir.file(`out-${name}/${extracted}`)), model, '7zz');
    }
  });
});

describe('a VDI image with a gap in its block map', () => {
  const gap = () =>
    vdiFile({
      type: 1,
      map: [free, 2, 1],
      blocks: [pattern(MiB, 9), pattern(MiB, 1), pattern(MiB, 2)],
      uuid: 3,
    });
  const model = new Uint8Array(3 * MiB);
  model.set(pattern(MiB, 2), MiB);
  model.set(pattern(MiB, 1), 2 * MiB);

  it('is written into the gap first, so that nothing is overwritten', async () => {
    const path = dir.file('gap.vdi');
    await writeFile(path, gap());
    const expected = model.slice();
    {
      await using image = await openImageFile(path, { writable: true });
      await image.write(100, pattern(1000, 5));
      expected.set(pattern(1000, 5), 100);
    }
    await using image = await openImageFile(path);
    expectSame(await readAll(image), expected);
    if (!have('qemu-img')) return;
    await writeFile(dir.file('model'), expected);
    const compared = await run('qemu-img', ['compare', '-F', 'vdi', '-f', 'raw', dir.file('model'), path]);
    expect(compared.stdout).toBe('Images are identical.\n');
    expect((await run('qemu-img', ['check', path])).code).toBe(0);
  });

  it('is found by check and repaired; QEMU then writes it without harm', async () => {
    const path = dir.file('gap2.vdi');
    await writeFile(path, gap());
    const found: string[] = [];
    {
      await using image = await openImageFile(path, { writable: true, checking: true });
      const onFinding = ({ message }: { message: string }) => found.push(message);
      const result = await checkImage(image.layer, { repair: 'all', onFinding });
      expect(result).toMatchObject({ corruptions: 0, corruptionsFixed: 1 });
    }
    expect(found).toEqual([expect.stringContaining('new blocks would overwrite it')]);
    const expected = model.slice();
    if (have('qemu-io')) {
      await mustRun('qemu-io', ['-f', 'vdi', '-c', 'write -P 7 0 1M', path]);
      expected.fill(7, 0, MiB);
    }
    await using image = await openImageFile(path);
    expect(await checkImage(image.layer)).toMatchObject({ corruptions: 0 });
    expectSame(await readAll(image), expected);
  });
});

describe('a differencing VDI image', () => {
  const parentName = '{02020202-0202-0202-0202-020202020202}.vdi';
  const parent = vdiFile({ type: 1, map: [0, 1, free], blocks: [pattern(MiB, 1), pattern(MiB, 2)], uuid: 2 });
  const child = (modification?: number) =>
    vdiFile({
      type: 4,
      map: [free, 0, free],
      blocks: [pattern(MiB, 3)],
      uuid: 4,
      parent: 2,
      parentModification: modification,
    });
  const model = new Uint8Array(3 * MiB);
  model.set(pattern(MiB, 1));
  model.set(pattern(MiB, 3), MiB);

  it('reads through the parent that lies beside it under its UUID', async () => {
    await writeFile(dir.file(parentName), parent);
    await writeFile(dir.file('child.vdi'), child());
    {
      await using image = await openImageFile(dir.file('child.vdi'));
      expectSame(await readAll(image), model);
    }
    await expect(openImageFile(dir.file('child.vdi'), { writable: true })).rejects.toMatchObject({
      code: 'unsupported',
    });
  });

  it('finds it by a UUID whose first fields are little-endian on disk', async () => {
    // 6a1b0c2d-3e4f-4a5b-8c9d-0e1f2a3b4c5d, created, and f0e1d2c3-b4a5-4687-9a8b-7c6d5e4f3021, modified.
    const created = Buffer.from('2d0c1b6a4f3e5b4a8c9d0e1f2a3b4c5d', 'hex');
    const modified = Buffer.from('c3d2e1f0a5b487469a8b7c6d5e4f3021', 'hex');
    const base = Buffer.from(parent);
    base.set(created, 0x188);
    base.set(modified, 0x198);
    await writeFile(dir.file('{6a1b0c2d-3e4f-4a5b-8c9d-0e1f2a3b4c5d}.vdi'), base);
    const over = child();
    over.set(created, 0x1a8);
    over.set(modified, 0x1b8);
    await writeFile(dir.file('real.vdi'), over);
    {
      await using image = await openImageFile(dir.file('real.vdi'));
      expect(image.layer.backing?.path).toBe('{6a1b0c2d-3e4f-4a5b-8c9d-0e1f2a3b4c5d}.vdi');
      expectSame(await readAll(image), model);
    }
    over.set(Buffer.from(modified).reverse(), 0x1b8);
    await writeFile(dir.file('real.vdi'), over);
    await expect(openImageFile(dir.file('real.vdi'))).rejects.toMatchObject({
      code: 'changed',
      message: expect.stringContaining('6a1b0c2d-3e4f-4a5b-8c9d-0e1f2a3b4c5d'),
    });
  });

  it('refuses a parent that was changed since, and one that is another image', async () => {
    await writeFile(dir.file(parentName), parent);
    await writeFile(dir.file('stale.vdi'), child(0x99));
    await expect(openImageFile(dir.file('stale.vdi'), { policy: trustedImages })).rejects.toMatchObject({
      code: 'changed',
    });
  });

  it('says how to name a parent that is not there', async () => {
    const lone = vdiFile({ type: 4, map: [free], blocks: [], uuid: 4, parent: 0x77 });
    await writeFile(dir.file('lone.vdi'), lone);
    const error = await openImageFile(dir.file('lone.vdi')).catch((thrown) => thrown);
    expect(error).toMatchObject({ code: 'not-found' });
    expect(`${error.message}`).toContain('backing.file.filename=PARENT');
  });
});
