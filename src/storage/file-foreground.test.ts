import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isRoot, mustRun, type TempDir, tempDir } from '../../test/support/programs.ts';
import { openFileStore } from './file.ts';

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-foreground-');
});
afterEach(() => folder.remove());

const mebi = 1024 * 1024;
const pattern = (length: number) => Uint8Array.from({ length }, (_, index) => (index * 7 + 1) % 251);

async function fill(path: string): Promise<void> {
  await using store = await openFileStore(path, { create: 'exclusive', foreground: true });
  await store.write(0, pattern(300));
  await store.write(mebi, pattern(mebi));
  await store.write(4 * mebi + 4096, pattern(2 * mebi + 100));
  // Longer than what may block.
  await store.write(8 * mebi, pattern(5 * mebi));
  expect(store.size).toBe(13 * mebi);
}

function assertFilled(path: string): void {
  const expected = new Uint8Array(13 * mebi);
  expected.set(pattern(300), 0);
  expected.set(pattern(mebi), mebi);
  expected.set(pattern(2 * mebi + 100), 4 * mebi + 4096);
  expected.set(pattern(5 * mebi), 8 * mebi);
  expect(Buffer.compare(readFileSync(path), expected)).toBe(0);
}

describe('a file whose bytes are sent on before they are flushed', () => {
  it('holds what was written and copied, whether it is flushed or only closed', async () => {
    const expected = pattern(2 * mebi);
    await using source = await openFileStore(folder.file('source'), { create: 'exclusive' });
    await source.write(0, expected);
    for (const flushed of [true, false]) {
      const path = folder.file(`image-${flushed}`);
      {
        const how = { create: 'exclusive', foreground: true, writeBehind: true } as const;
        await using store = await openFileStore(path, how);
        for (let at = 0; at < 40; at += 2) {
          const copied = at % 8 === 0 ? await store.copyFrom(at * mebi, source, 0, 2 * mebi) : 0;
          await store.write(at * mebi + copied, expected.subarray(copied));
        }
        if (flushed) await store.flush();
      }
      const found = readFileSync(path);
      expect(found.length).toBe(40 * mebi);
      for (let at = 0; at < 40; at += 2) {
        expect(Buffer.compare(found.subarray(at * mebi, (at + 2) * mebi), expected)).toBe(0);
      }
    }
  });
});

describe('a file filled in the foreground', () => {
  it('holds what was written, and takes no more space than that', async () => {
    const path = folder.file('image');
    await fill(path);
    assertFilled(path);
    await mustRun('sync', [path]);
    const written = 4096 + mebi + 2 * mebi + 4096 + 5 * mebi;
    // Some file systems want blocks of their own for where the data lies.
    expect(statSync(path).blocks * 512).toBeLessThanOrEqual(written + 16 * 4096);
  });

  it('can be written where no space can be taken first', async () => {
    // A path in memory: tmpfs.
    const path = `/dev/shm/cowherd-foreground-${process.pid}`;
    try {
      await fill(path);
      assertFilled(path);
    } finally {
      await mustRun('rm', ['-f', path]);
    }
  });

  it('gives the event loop a turn among writes that block', async () => {
    await using store = await openFileStore(folder.file('image'), { create: 'exclusive', foreground: true });
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    const bytes = pattern(2 * mebi);
    for (let index = 0; index < 64; index++) await store.write((index % 4) * bytes.length, bytes);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(0);
  });

  it('is read as it was written, in short and long requests', async () => {
    const path = folder.file('image');
    await fill(path);
    await using store = await openFileStore(path, { foreground: true });
    for (const [at, length] of [
      [0, 300],
      [mebi, mebi],
      [mebi - 5, 2 * mebi + 10],
      [0, 13 * mebi],
    ]) {
      const into = new Uint8Array(length);
      await store.read(at, into);
      expect(Buffer.compare(into, readFileSync(path).subarray(at, at + length))).toBe(0);
    }
    await expect(store.read(13 * mebi - 1, new Uint8Array(2))).rejects.toMatchObject({
      code: 'out-of-range',
    });
  });

  it.runIf(isRoot)('says so when the disk is full', async () => {
    const disk = folder.file('disk');
    const mount = folder.file('mount');
    writeFileSync(disk, new Uint8Array(16 * mebi));
    await mustRun('mkfs.ext4', ['-q', '-O', '^has_journal', disk]);
    await mustRun('mkdir', [mount]);
    await mustRun('mount', ['-o', 'loop', disk, mount]);
    try {
      await using store = await openFileStore(`${mount}/image`, { create: 'exclusive', foreground: true });
      const bytes = pattern(2 * mebi);
      const writing = (async () => {
        for (let index = 0; index < 16; index++) await store.write(index * bytes.length, bytes);
      })();
      await expect(writing).rejects.toMatchObject({ code: 'out-of-space' });
      expect(store.size).toBe(statSync(`${mount}/image`).size);
    } finally {
      await mustRun('umount', [mount]);
    }
  });
});
