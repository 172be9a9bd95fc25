import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { claimsOn } from '../../src/filesystems/claims.ts';
import { parseConfig } from '../../src/filesystems/lvm/config-text.ts';
import { openFileSystem } from '../../src/filesystems/open.ts';
import { readContent, walkTree } from '../../src/filesystems/tree.ts';
import { volumesOf } from '../../src/filesystems/volumes.ts';
import { openImageFile } from '../../src/node.ts';
import { firstExtent, haveLvm, LvmDisk, withSnapshot } from '../support/lvm.ts';
import { have, mustRun, type TempDir, tempDir } from '../support/programs.ts';

const MiB = 1024 * 1024;

describe('the text in which LVM keeps its metadata', () => {
  it('has sections, lists, texts, numbers and remarks', () => {
    const read = parseConfig(
      '# by hand\nvg-0 {\n id = "a\\"b\\\\c" # why\n flags = []\n status=["READ", "WRITE"]\n pv { pe_start = 2048 }\n}\nversion = 1',
    );
    const group = read.get('vg-0') as ReadonlyMap<string, unknown>;
    expect(group.get('id')).toBe('a"b\\c');
    expect(group.get('flags')).toEqual([]);
    expect(group.get('status')).toEqual(['READ', 'WRITE']);
    expect((group.get('pv') as ReadonlyMap<string, unknown>).get('pe_start')).toBe(2048);
    expect(read.get('version')).toBe(1);
  });

  it.each([
    ['vg {', /the end/],
    ['vg { id = }', /'}' in place of a value/],
    ['a = 1 a = 2', /given already/],
    ['a = [1, [2]]', /a text or a number/],
    ['}', /in place of a name/],
    ['a = "open', /in place of a name or a value/],
    ['a {'.repeat(100), /fewer than 16 sections/],
    ['__proto__ 1', /in place of '='/],
  ])('refuses %s', (text, message) => {
    expect(() => parseConfig(text)).toThrow(message);
  });
});

describe.skipIf(!haveLvm || !have('mkfs.ext4') || !have('debugfs'))('logical volumes made by lvm', () => {
  let folder: TempDir;
  /** Disks with two logical volumes, of which the first has two pieces; the group begins at so many bytes. */
  const grown = new Map<number, LvmDisk>();
  beforeAll(async () => {
    folder = await tempDir('cowherd-lvm-');
    for (const start of [0, MiB]) {
      const disk = await LvmDisk.make(folder.file(`made-${start}.img`), { start, length: 64 * MiB });
      await disk.run('lvcreate', ['-L', '12M', '-n', 'root-lv']);
      await disk.run('lvcreate', ['-L', '8M', '-n', 'swap']);
      await disk.run('lvextend', ['-L', '20M', `${disk.group}/root-lv`]);
      grown.set(start, disk);
    }
  }, 120_000);
  afterAll(() => folder.remove());

  const grownDisk = (name: string, start = 0) => grown.get(start)!.copyTo(folder.file(name));

  it.each([0, MiB])('lie where lvm says, with files in them (the group begins at byte %s)', async (start) => {
    const disk = await grownDisk(`grown-${start}.img`, start);
    const big = Buffer.alloc(14 * MiB, 'over the end of the first piece ');
    await disk.makeExt4('root-lv', 20 * MiB, { big, 'etc/hostname': Buffer.from('golden\n') });
    await using image = await openImageFile(disk.path, { format: 'raw' });
    const volumes = await volumesOf(image);
    expect(volumes.map(({ logical, length }) => [logical?.name, length])).toEqual([
      ['vg-a/root-lv', 20 * MiB],
      ['vg-a/swap', 8 * MiB],
    ]);
    const first = start + firstExtent;
    expect(volumes[0].pieces).toEqual([
      { offset: first, length: 12 * MiB },
      { offset: first + 20 * MiB, length: 8 * MiB },
    ]);
    expect(volumes[0].offset).toBe(first);
    expect(volumes[0].logical!.uuid).toBe(await disk.uuidOf('root-lv'));
    expect(volumes[0].logical!.heldBy).toBeUndefined();
    const system = (await openFileSystem(volumes[0].bytes))!;
    const found = new Map<string, Buffer>();
    for await (const { path, node } of walkTree(system)) {
      if (node.kind === 'file') found.set(path, Buffer.from(await readContent(system, node, 20 * MiB)));
    }
    expect(found.get('/etc/hostname')?.toString()).toBe('golden\n');
    expect(found.get('/big')?.equals(big)).toBe(true);
  });

  it('are read by the newest metadata, over the end of its ring', async () => {
    const disk = await LvmDisk.make(folder.file('ring.img'), { start: 0, length: 32 * MiB });
    await disk.run('lvcreate', ['-L', '4M', '-n', 'last']);
    // Each change appends a text of at least 2 KiB to the ring of a mebibyte less the header.
    const tag = 'x'.repeat(1000);
    const tags = Array.from({ length: 60 }, (_, index) => ['--addtag', `${tag}${index}`]).flat();
    for (let round = 0; round < 9; round++) {
      await disk.run('lvchange', [...tags, `${disk.group}/last`]);
      await disk.run('lvchange', [...tags.map((one) => one.replace('--add', '--del')), `${disk.group}/last`]);
    }
    await disk.run('lvrename', [disk.group, 'last', 'renamed']);
    await using image = await openImageFile(disk.path, { format: 'raw' });
    expect((await volumesOf(image)).map(({ logical }) => logical?.name)).toEqual(['vg-a/renamed']);
  });

  it('are refused by name where they are no linear ones, and then hold what is free on the others', async () => {
    const disk = await grownDisk('snapshot.img');
    await disk.edit(withSnapshot);
    await using image = await openImageFile(disk.path, { format: 'raw' });
    const [root, swap, ...others] = await volumesOf(image);
    expect(others).toEqual([]);
    expect(root.logical!.heldBy).toMatch(/'snapshot0', a volume of type snapshot/);
    expect(root.pieces.length).toBe(2);
    expect(swap.pieces).toEqual([]);
    await expect(openFileSystem(swap.bytes)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('snapshot'),
    });
  });

  it.each<[string, (text: string) => string, RegExp]>([
    ['a piece past the end', (text) => text.replace(/"pv0", 0/, '"pv0", 900000'), /stripes/],
    ['a piece before the first', (text) => text.replace(/"pv0", 0/, '"pv0", -1'), /stripes/],
    ['a start within the metadata', (text) => text.replace('pe_start = 2048', 'pe_start = 1024'), /pe_start/],
    ['a gap', (text) => text.replace('start_extent = 12', 'start_extent = 13'), /start_extent/],
    [
      'an extent size of nothing',
      (text) => text.replace(/extent_size = \d+/, 'extent_size = 0'),
      /extent_size/,
    ],
    ['too few segments', (text) => text.replace('segment_count = 2', 'segment_count = 3'), /segment_count/],
    [
      'another disk',
      (text) => text.replace(/pv0 \{\s*id = "\w+/, (all) => `${all.slice(0, -1)}_`),
      /another disk/,
    ],
    ['no sense', (text) => text.replace('logical_volumes {', 'logical_volumes ['), /in place of/],
  ])('is corrupt with %s', async (_, change, message) => {
    const disk = await grownDisk('broken.img');
    await disk.edit(change);
    await using image = await openImageFile(disk.path, { format: 'raw' });
    const [volume] = await volumesOf(image);
    await expect(openFileSystem(volume.bytes)).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringMatching(message),
    });
  });

  it('is corrupt where a byte of the metadata is another one, and no LVM at all where one of the label is', async () => {
    const disk = await grownDisk('flipped.img');
    const whole = readFileSync(disk.path);
    const changed = async (at: number) => {
      const bytes = Buffer.from(whole);
      bytes[at] ^= 1;
      writeFileSync(disk.path, bytes);
      await using image = await openImageFile(disk.path, { format: 'raw' });
      const [volume] = await volumesOf(image);
      return await openFileSystem(volume.bytes).then(
        () => (volume.logical ? 'read' : 'no LVM'),
        (error) => error.code,
      );
    };
    expect(await changed(disk.textAt() + 40)).toBe('corrupt');
    expect(await changed(4096 + 30)).toBe('corrupt');
    expect(await changed(512 + 40)).toBe('no LVM');
  });

  it('are read from either metadata area, and held where one is damaged', async () => {
    const disk = await LvmDisk.make(folder.file('two-areas.img'), {
      start: 0,
      length: 32 * MiB,
      areas: 2,
    });
    await disk.run('lvcreate', ['-L', '4M', '-n', 'one']);
    const look = async () => {
      await using image = await openImageFile(disk.path, { format: 'raw' });
      return (await volumesOf(image)).map(({ logical }) => [logical?.name, logical?.heldBy]);
    };
    expect(await look()).toEqual([['vg-a/one', undefined]]);
    const bytes = readFileSync(disk.path);
    bytes[4096 + 30] ^= 1;
    writeFileSync(disk.path, bytes);
    expect(await look()).toEqual([['vg-a/one', expect.stringContaining('wrong checksum')]]);
  });

  it('are named once where the group has two partitions of the disk', async () => {
    const disk = await LvmDisk.make(folder.file('two.img'), {
      start: MiB,
      length: 31 * MiB,
      second: 32 * MiB,
    });
    await disk.run('lvcreate', ['-l', '30', '-n', 'first']);
    await disk.run('lvcreate', ['-l', '20', '-n', 'second']);
    await disk.run('lvextend', ['-l', '31', `${disk.group}/first`]);
    await using image = await openImageFile(disk.path, { format: 'raw' });
    const volumes = await volumesOf(image);
    expect(volumes.map(({ logical, pieces }) => [logical!.name, pieces.length])).toEqual([
      ['vg-a/first', 0],
      ['vg-a/second', 1],
    ]);
    expect(volumes[1].offset).toBe(33 * MiB);
    expect([...(await claimsOn(volumes)).values()]).toEqual([
      expect.stringContaining('other physical volumes'),
      expect.stringContaining('other physical volumes'),
    ]);
  });

  it('belong to what the partition is marked as, or lies over it, too', async () => {
    const disk = await grownDisk('marked.img', MiB);
    const claims = async () => {
      await using image = await openImageFile(disk.path, { format: 'raw' });
      return [...(await claimsOn(await volumesOf(image))).values()];
    };
    expect(await claims()).toEqual([]);
    const bytes = readFileSync(disk.path);
    // Version 1.0 of Linux's RAID superblock: the last 4 KiB but 8 before the end.
    const at = MiB + 64 * MiB - 8192;
    bytes.writeUInt32LE(0xa92b4efc, at);
    writeFileSync(disk.path, bytes);
    expect(await claims()).toEqual(Array(2).fill('what it lies in carries the mark of a RAID member'));
    bytes.writeUInt32LE(0, at);
    bytes[446 + 4] = 0xfd;
    writeFileSync(disk.path, bytes);
    expect(await claims()).toEqual(Array(2).fill('its type (fd) is that of no file system'));
    bytes[446 + 4] = 0x8e;
    // A second partition over the metadata.
    bytes.copy(bytes, 446 + 16, 446, 446 + 16);
    bytes[446 + 16 + 4] = 0x83;
    bytes.writeUInt32LE(8, 446 + 16 + 12);
    writeFileSync(disk.path, bytes);
    expect(await claims()).toEqual(Array(3).fill('it overlaps another volume'));
  });

  it('give way to a file system that was made over them later', async () => {
    const disk = await grownDisk('over.img');
    const label = readFileSync(disk.path).subarray(512, 1024);
    await mustRun('mkfs.ext4', ['-q', '-F', disk.path]);
    const bytes = readFileSync(disk.path);
    label.copy(bytes, 512);
    writeFileSync(disk.path, bytes);
    await using image = await openImageFile(disk.path, { format: 'raw' });
    const [volume, ...others] = await volumesOf(image);
    expect([volume.logical, others.length]).toEqual([undefined, 0]);
    expect((await openFileSystem(volume.bytes))?.kind).toBe('ext4');
  });
});
