import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, tempDir } from '../../../test/support/programs.ts';
import { encodeIso9660, type IsoFile, markOffset } from './iso9660.ts';

const text = (value: string) => new TextEncoder().encode(value);
const seed: readonly IsoFile[] = [
  { name: 'user-data', bytes: text('#cloud-config\nhostname: student-07\n') },
  { name: 'meta-data', bytes: text('instance-id: iid-1\n') },
  { name: 'network-config', bytes: new Uint8Array(5000).fill(0x61) },
  { name: 'empty', bytes: new Uint8Array() },
];
/** More than one sector of records, short names that collide, long names. */
const many: readonly IsoFile[] = Array.from({ length: 90 }, (_, i) => ({
  name: `a-rather-long-name-of-a-file-that-has-a-number-${i}.config`,
  bytes: text(`file ${i}`),
}));
const mountable = isRoot && readFileSync('/proc/filesystems', 'utf8').includes('iso9660');
const date = new Date(Date.UTC(2024, 1, 29, 12, 34, 56));
const image = (files: readonly IsoFile[]) =>
  encodeIso9660(files, { volumeId: 'cidata', date, mark: 'made for a test' });

it('is the same for the same files, whole sectors, and carries its mark', () => {
  const bytes = image(seed);
  expect(bytes).toEqual(image(seed));
  expect(bytes.length % 2048).toBe(0);
  expect(new TextDecoder().decode(bytes.subarray(markOffset, markOffset + 15))).toBe('made for a test');
});

it.each(['', 'a/b', '.hidden', 'ü', 'a b', 'x'.repeat(65)])('refuses the name %j', (name) => {
  expect(() => image([{ name, bytes: new Uint8Array() }])).toThrow(/is no name for a file/);
});

it('refuses two files of one name, and a volume name that Joliet cannot hold', () => {
  expect(() => image([seed[0], seed[0]])).toThrow("Two files are called 'user-data'");
  expect(() => encodeIso9660([], { volumeId: 'x'.repeat(17), date })).toThrow('is no volume name');
});

describe.each([
  ['a seed', seed],
  ['many files', many],
])('%s, as others read it', (_, files) => {
  const withImage = async (work: (path: string) => Promise<void>) => {
    await using folder = await tempDir();
    writeFileSync(folder.file('seed.iso'), image(files));
    await work(folder.file('seed.iso'));
  };

  it.skipIf(!have('isoinfo'))('isoinfo: every tree has the files and their bytes', () =>
    withImage(async (path) => {
      for (const tree of ['-R', '-J']) {
        const listed = (await mustRun('isoinfo', ['-i', path, tree, '-f'])).trim().split('\n');
        expect(listed.sort(), tree).toEqual(files.map((file) => `/${file.name}`).sort());
        for (const file of files.slice(0, 5)) {
          const read = await mustRun('isoinfo', ['-i', path, tree, '-x', `/${file.name}`]);
          expect(read, file.name).toBe(new TextDecoder().decode(file.bytes));
        }
      }
      const plain = (await mustRun('isoinfo', ['-i', path, '-f'])).trim().split('\n');
      expect(new Set(plain).size).toBe(files.length);
      for (const name of plain) expect(name).toMatch(/^\/[A-Z0-9_]{1,8}\.[A-Z0-9_]{0,3};1$/);
      const facts = await mustRun('isoinfo', ['-i', path, '-d']);
      expect(facts).toContain('Volume id: cidata');
      expect(facts).toContain('Joliet with UCS level 3 found');
      expect(facts).toContain('Rock Ridge signatures version 1 found');
      expect(await mustRun('isoinfo', ['-i', path, '-l', '-R'])).toMatch(/-r--r--r--.*Feb 29 2024/);
    }),
  );

  it.skipIf(!have('xorriso'))('xorriso: loads it without a complaint and finds nothing damaged', () =>
    withImage(async (path) => {
      const found = await run('xorriso', ['-indev', path, '-check_media', '--', '-find', '/', '-type', 'f']);
      expect(found.code, found.stderr).toBe(0);
      expect(found.stderr).not.toMatch(/WARNING|FAILURE|SORRY|FATAL/);
      for (const file of files) expect(found.stdout).toContain(`'/${file.name}'`);
    }),
  );

  it.skipIf(!have('7zz'))('7zz: tests well', () =>
    withImage(async (path) => {
      expect(await mustRun('7zz', ['t', path])).toContain('Everything is Ok');
    }),
  );

  it.skipIf(!have('blkid'))('blkid: knows type and label', () =>
    withImage(async (path) => {
      const found = await mustRun('blkid', ['-p', '-o', 'export', path]);
      expect(found).toContain('TYPE=iso9660');
      expect(found).toContain('LABEL=cidata');
    }),
  );

  it.skipIf(!mountable)('Linux: mounts it, by either tree', () =>
    withImage(async (path) => {
      for (const options of ['loop,ro', 'loop,ro,norock']) {
        await using point = await tempDir();
        await mustRun('mount', ['-t', 'iso9660', '-o', options, path, point.path]);
        try {
          const sums = (await mustRun('sh', ['-c', 'sha256sum *'], { cwd: point.path })).trim().split('\n');
          expect(sums.length).toBe(files.length);
          for (const file of files) {
            expect(await mustRun('cat', [point.file(file.name)])).toBe(new TextDecoder().decode(file.bytes));
          }
        } finally {
          await mustRun('umount', [point.path]);
        }
      }
    }),
  );
});
