import { writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openFileSystem } from '../../src/filesystems/open.ts';
import { readPartitions } from '../../src/filesystems/partitions.ts';
import { readContent, walkTree } from '../../src/filesystems/tree.ts';
import { volumesOf } from '../../src/filesystems/volumes.ts';
import { openImageFile } from '../../src/node.ts';
import { have, mustRun, type TempDir, tempDir } from '../support/programs.ts';

const kinds: Readonly<Record<string, readonly string[]>> = {
  FAT12: ['-F', '12', '1440'],
  FAT16: ['-F', '16', '20480'],
  FAT32: ['-F', '32', '-s', '1', '40960'],
  'FAT16 of large clusters': ['-F', '16', '-s', '8', '65536'],
};

describe.skipIf(!have('mkfs.fat') || !have('mcopy'))('FAT by mkfs.fat and mtools', () => {
  let folder: TempDir;
  beforeAll(async () => {
    folder = await tempDir('cowherd-fat-');
  });
  afterAll(() => folder.remove());

  for (const [name, args] of Object.entries(kinds)) {
    it(`reads ${name}`, async () => {
      const path = folder.file('fat.img');
      const options = args.slice(0, -1);
      await mustRun('rm', ['-f', path]);
      await mustRun('mkfs.fat', [...options, '-n', 'GOLDEN', '-i', '1234abcd', '-C', path, args.at(-1)!]);
      const files = new Map<string, Buffer>([
        ['/README.TXT', Buffer.from('short\n')],
        ['/A name that is long enough for three entries.txt', Buffer.from('long')],
        ['/dir/lower', Buffer.alloc(100_000, 'abc')],
        ['/dir/Smörgåsbord.dat', Buffer.alloc(0)],
        ['/dir/sub/x', Buffer.from('deep')],
      ]);
      for (let i = 0; i < 40; i++) files.set(`/dir/sub/Number ${i} of many`, Buffer.from(`${i}`));
      const env = { LC_ALL: 'C.UTF-8' };
      await mustRun('mmd', ['-i', path, '::dir', '::dir/sub'], { env });
      const source = folder.file('source');
      for (const [to, bytes] of files) {
        writeFileSync(source, bytes);
        await mustRun('mcopy', ['-i', path, source, `::${to}`], { env });
      }
      // Chains in pieces, and free space between them.
      await mustRun('mdel', ['-i', path, '::/README.TXT']);
      files.delete('/README.TXT');
      writeFileSync(source, Buffer.alloc(70_001, 'fragment'));
      await mustRun('mcopy', ['-i', path, source, '::/late'], { env });
      files.set('/late', Buffer.alloc(70_001, 'fragment'));

      await using image = await openImageFile(path, { format: 'raw' });
      const system = (await openFileSystem(image))!;
      expect([system.kind, system.label, system.uuid]).toEqual(['vfat', 'GOLDEN', '1234-ABCD']);
      const found = new Map<string, Buffer>();
      for await (const { path: at, node } of walkTree(system)) {
        if (node.kind === 'file') found.set(at, Buffer.from(await readContent(system, node, 1 << 20)));
      }
      expect([...found.keys()].sort()).toEqual([...files.keys()].sort());
      for (const [at, bytes] of files) expect(found.get(at)!.equals(bytes), at).toBe(true);
      let free = 0;
      for await (const { length } of system.freeRanges()) free += length;
      const said = /([\d ]+) bytes free/.exec(await mustRun('mdir', ['-i', path, '::'], { env }))![1]!;
      expect(free).toBe(Number(said.replaceAll(' ', '')));
    });
  }
});

describe.skipIf(!have('sfdisk'))('partition tables by sfdisk', () => {
  const tables: Readonly<Record<string, string>> = {
    gpt: 'label: gpt\nsize=4M, name="first one", type=uefi\nsize=8M\nstart=30M, size=1M, type=swap\n',
    mbr: 'label: dos\nsize=4M, type=83, bootable\nsize=40M, type=5\nsize=8M, type=82\nsize=3M, type=c\n,2M\n',
  };
  for (const [kind, script] of Object.entries(tables)) {
    it(`reads ${kind}`, async () => {
      await using folder = await tempDir('cowherd-partitions-');
      const path = folder.file('disk.img');
      await mustRun('truncate', ['-s', '64M', path]);
      await mustRun('sfdisk', ['-q', path], { input: script });
      const judged = JSON.parse(await mustRun('sfdisk', ['-J', path])).partitiontable;
      await using image = await openImageFile(path, { format: 'raw' });
      const table = await readPartitions(image);
      expect(table.kind).toBe(kind);
      expect(
        table.partitions.map(({ number, offset, length, type }) => ({
          node: `${path}${number}`,
          start: offset / 512,
          size: length / 512,
          type,
        })),
      ).toEqual(
        judged.partitions.map(({ node, start, size, type }: Record<string, unknown>) => ({
          node,
          start,
          size,
          type,
        })),
      );
      if (kind === 'gpt') expect(table.partitions[0]!.name).toBe('first one');
      // As the kernel calls them (PARTUUID): for an MBR the label's ID and the number.
      const numberOf = (node: string) => node.slice(path.length).padStart(2, '0');
      expect(table.partitions.map(({ uuid }) => uuid)).toEqual(
        judged.partitions.map(({ node, uuid }: Record<string, string>) =>
          kind === 'gpt' ? uuid.toLowerCase() : `${judged.id.slice(2)}-${numberOf(node)}`,
        ),
      );
      expect(await volumesOf(image)).toHaveLength(kind === 'gpt' ? 3 : 4);
    });
  }
});
