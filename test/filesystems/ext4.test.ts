import { mkdirSync, readFileSync, readlinkSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isDiskError } from '../../src/errors.ts';
import type { FileSystem } from '../../src/filesystems/file-system.ts';
import { openFileSystem } from '../../src/filesystems/open.ts';
import { lookUp, readContent, walkTree } from '../../src/filesystems/tree.ts';
import { openImageFile } from '../../src/node.ts';
import { have, mustRun, type TempDir, tempDir } from '../support/programs.ts';

const KiB = 1024;

/** File systems of many ages and shapes, as mkfs.ext4 makes them. */
const shapes: Readonly<Record<string, readonly string[]>> = {
  'ext4 as Debian makes it': ['-t', 'ext4'],
  'ext4 of 1 KiB blocks': ['-t', 'ext4', '-b', '1024'],
  'ext4 with inline data': ['-t', 'ext4', '-O', 'inline_data', '-I', '256'],
  'ext4 with meta_bg': ['-t', 'ext4', '-b', '1024', '-O', 'meta_bg,^resize_inode', '-g', '1024'],
  'ext4 of 32 bits with uninit_bg': ['-t', 'ext4', '-O', '^64bit,^metadata_csum,uninit_bg'],
  'ext4 with bigalloc': ['-t', 'ext4', '-O', 'bigalloc', '-C', '16384'],
  'ext4 with a checksum seed and 64 KiB blocks': ['-t', 'ext4', '-O', 'metadata_csum_seed', '-b', '65536'],
  'ext4 with sparse_super2': ['-t', 'ext4', '-O', 'sparse_super2,^resize_inode', '-g', '2048', '-b', '1024'],
  ext3: ['-t', 'ext3'],
  'ext2 of 1 KiB blocks': ['-t', 'ext2', '-b', '1024'],
  'ext2 of revision 0': ['-t', 'ext2', '-r', '0', '-b', '1024'],
};

describe.skipIf(!have('mkfs.ext4') || !have('debugfs'))('ext2, ext3 and ext4 by mke2fs', () => {
  let folder: TempDir;
  let tree: string;
  const files = new Map<string, Buffer>();

  beforeAll(async () => {
    folder = await tempDir('cowherd-ext4-');
    tree = folder.file('tree');
    mkdirSync(join(tree, 'etc/deep/er'), { recursive: true });
    mkdirSync(join(tree, 'many'));
    mkdirSync(join(tree, 'empty'));
    const add = (path: string, bytes: Buffer) => {
      files.set(`/${path}`, bytes);
      writeFileSync(join(tree, path), bytes);
    };
    add('etc/hostname', Buffer.from('golden\n'));
    add('etc/deep/er/nothing', Buffer.alloc(0));
    add('etc/inline', Buffer.from('x'.repeat(130)));
    add(
      'large',
      Buffer.from(Uint8Array.from({ length: 700 * KiB + 13 }, (_, i) => (i * 7 + (i >> 11)) & 255)),
    );
    add('ünï cödé', Buffer.from('name'));
    for (let i = 0; i < 300; i++) add(`many/file-with-a-rather-long-name-${i}`, Buffer.from(`${i}`));
    symlinkSync('etc/hostname', join(tree, 'short'));
    symlinkSync(
      `../${'a/../'.repeat(30)}etc`.replace('../', './').replaceAll('a/', 'etc/'),
      join(tree, 'long'),
    );
    symlinkSync('/etc', join(tree, 'absolute'));
    // Holes: a map with gaps, which ext2 keeps in indirect blocks.
    add('sparse', Buffer.alloc(0));
    const sparse = await open(join(tree, 'sparse'), 'r+');
    for (const at of [0, 40 * KiB, 300 * KiB, 4096 * KiB])
      await sparse.write(Buffer.from(`at ${at}`), 0, undefined, at);
    await sparse.close();
    truncateSync(join(tree, 'sparse'), 5000 * KiB);
    files.set('/sparse', readFileSync(join(tree, 'sparse')));
  });
  afterAll(() => folder.remove());

  for (const [name, args] of Object.entries(shapes)) {
    it(`reads ${name}`, async () => {
      const path = folder.file('fs.img');
      await mustRun('rm', ['-f', path]);
      await mustRun('mkfs.ext4', [...args, '-q', '-F', '-L', 'golden', '-d', tree, path, '24M']);
      // A hash tree, which mke2fs does not make.
      await mustRun('sh', ['-c', `e2fsck -fyD '${path}' >/dev/null 2>&1; [ $? -le 1 ]`]);
      await using image = await openImageFile(path, { format: 'raw' });
      const system = (await openFileSystem(image))!;
      expect(system.label).toBe('golden');
      expect(system.uuid).toBe((await mustRun('blkid', ['-p', '-o', 'value', '-s', 'UUID', path])).trim());
      expect(system.kind).toBe((await mustRun('blkid', ['-p', '-o', 'value', '-s', 'TYPE', path])).trim());
      expect(system.needsRecovery).toBe(false);
      // With inline data, mke2fs forgets a hole at the end.
      const kept = folder.file('kept');
      await mustRun('debugfs', ['-R', `dump /sparse ${kept}`, path]);
      files.set('/sparse', readFileSync(kept));
      await expectTree(system);
      expect(await freeByUs(system)).toEqual(await freeByDumpe2fs(path));
    });
  }

  async function expectTree(system: FileSystem): Promise<void> {
    const found = new Map<string, Buffer>();
    const others: string[] = [];
    for await (const { path, node } of walkTree(system)) {
      if (node.kind === 'file') found.set(path, Buffer.from(await readContent(system, node, 8192 * KiB)));
      else others.push(`${path} ${node.kind}`);
    }
    expect([...found.keys()].sort()).toEqual([...files.keys()].sort());
    for (const [path, bytes] of files) expect(found.get(path)!.equals(bytes), path).toBe(true);
    expect(others).toEqual([
      '/absolute symlink',
      '/empty directory',
      '/etc directory',
      '/etc/deep directory',
      '/etc/deep/er directory',
      '/long symlink',
      '/lost+found directory',
      '/many directory',
      '/short symlink',
    ]);
    for (const link of ['short', 'long', 'absolute']) {
      const node = (await lookUp(system, `/${link}`, { followLast: false }))!;
      expect(await system.target(node)).toBe(readlinkSync(join(tree, link)));
    }
    const hostname = await lookUp(system, '/etc/hostname');
    for (const path of ['/short', '/long/hostname', '/absolute/deep/../hostname', '/../etc/./hostname']) {
      expect((await lookUp(system, path))?.id, path).toBe(hostname!.id);
    }
    expect(await lookUp(system, '/etc/hostname/x')).toBeUndefined();
    // A part from the middle, over holes.
    const sparse = (await lookUp(system, '/sparse'))!;
    const part = new Uint8Array(50_000);
    expect(await system.read(sparse, 290_000, part)).toBe(50_000);
    expect(Buffer.from(part).equals(files.get('/sparse')!.subarray(290_000, 340_000))).toBe(true);
    expect(await system.read(sparse, sparse.size - 5, part)).toBe(5);
  }

  async function freeByUs(system: FileSystem): Promise<string[]> {
    const found: string[] = [];
    for await (const { offset, length } of system.freeRanges()) {
      found.push(`${offset / system.blockSize}-${(offset + length) / system.blockSize - 1}`);
    }
    return found;
  }

  /** What dumpe2fs lists for each group, neighbours joined. */
  async function freeByDumpe2fs(path: string): Promise<string[]> {
    const text = await mustRun('dumpe2fs', [path]);
    const ranges: [number, number][] = [];
    const sizeOf = (what: string) => Number(new RegExp(`^${what} size: +(\\d+)`, 'm').exec(text)?.[1]);
    // It names clusters by their first blocks.
    const more = (sizeOf('Cluster') || sizeOf('Block')) / sizeOf('Block') - 1;
    const groups = text.slice(text.indexOf('\nGroup 0:'));
    for (const [, list] of groups.matchAll(/Free blocks: (.*)/g)) {
      for (const one of list!.split(', ').filter((part) => part !== '')) {
        const [start, lastFirst = start] = one.split('-').map(Number);
        const end = lastFirst! + more;
        const last = ranges[ranges.length - 1];
        if (last && last[1] + 1 === start) last[1] = end;
        else ranges.push([start!, end]);
      }
    }
    return ranges.map(([start, end]) => `${start}-${end}`);
  }

  it('reads names, owners, modes and times as debugfs shows them', async () => {
    const path = folder.file('facts.img');
    await mustRun('mkfs.ext4', ['-q', '-F', '-d', tree, path, '16M']);
    for (const [field, value] of Object.entries({
      mode: '0104755',
      uid: '70000',
      gid: '80000',
      mtime: '@4294967300',
    })) {
      await mustRun('debugfs', ['-w', '-R', `set_inode_field /etc/hostname ${field} ${value}`, path]);
    }
    await using image = await openImageFile(path, { format: 'raw' });
    const system = (await openFileSystem(image))!;
    const node = (await lookUp(system, '/etc/hostname'))!;
    expect(node).toMatchObject({ kind: 'file', mode: 0o4755, uid: 70_000, gid: 80_000, size: 7 });
    const stat = await mustRun('debugfs', ['-R', 'stat /etc/hostname', path]);
    expect(stat).toContain(`Inode: ${node.id} `);
    const seconds = /mtime: 0x([0-9a-f]{8}):([0-9a-f]{8})/.exec(stat)!;
    expect(node.mtime).toBe(
      Number.parseInt(seconds[1]!, 16) + (Number.parseInt(seconds[2]!, 16) & 3) * 2 ** 32,
    );
  });

  it('finds damage by the checksums, and says where', async () => {
    const path = folder.file('damaged.img');
    await mustRun('mkfs.ext4', ['-q', '-F', '-b', '4096', '-d', tree, path, '16M']);
    const sound = readFileSync(path);
    const block = async (request: string) =>
      Number((await mustRun('debugfs', ['-R', request, path])).trim().split(/\s/)[0]);
    const directory = await block('blocks /many');
    const bitmap = Number(/Block bitmap at (\d+)/.exec(await mustRun('dumpe2fs', [path]))![1]);
    const table = Number(/Inode table at (\d+)/.exec(await mustRun('dumpe2fs', [path]))![1]);
    const places: Readonly<Record<string, number>> = {
      superblock: 1024 + 0x30,
      'group descriptor': 4096 + 0x0c,
      inode: table * 4096 + 256 + 0x08,
      directory: directory * 4096 + 100,
      bitmap: bitmap * 4096 + 1000,
    };
    for (const [what, at] of Object.entries(places)) {
      const bytes = Buffer.from(sound);
      bytes[at]! ^= 0x10;
      writeFileSync(path, bytes);
      await using image = await openImageFile(path, { format: 'raw' });
      const read = async () => {
        const system = (await openFileSystem(image))!;
        for await (const _ of walkTree(system));
        for await (const _ of system.freeRanges());
      };
      const error = await read().catch((thrown: unknown) => thrown);
      expect(isDiskError(error, 'corrupt'), what).toBe(true);
    }
  });

  it('says that a journal waits, and then calls nothing free', async () => {
    const path = folder.file('dirty.img');
    await mustRun('mkfs.ext4', ['-q', '-F', '-d', tree, path, '16M']);
    await mustRun('debugfs', ['-w', '-R', 'feature needs_recovery', path]);
    await using image = await openImageFile(path, { format: 'raw' });
    const system = (await openFileSystem(image))!;
    expect(system.needsRecovery).toBe(true);
    expect(await lookUp(system, '/etc/hostname')).toMatchObject({ size: 7 });
    await expect(system.freeRanges()[Symbol.asyncIterator]().next()).rejects.toMatchObject({
      code: 'in-use',
    });
  });
});
