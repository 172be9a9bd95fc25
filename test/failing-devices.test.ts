import { randomFillSync } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cowImg } from '../src/cli/cow-img.ts';
import { openFileStore } from '../src/node.ts';
import { testContext } from './support/cli-context.ts';
import { unmount } from './support/mounts.ts';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from './support/programs.ts';

const canLoop = isRoot && have('losetup') && (await run('losetup', ['-f'])).code === 0;
const canMount = canLoop && (await run('unshare', ['-m', 'mount', '-t', 'tmpfs', 'none', '/mnt'])).code === 0;

/**
 * A loop device over a sparse file, in a file system that has room for a part of it: it takes all writes into the page cache,
 * and fails to write them, as a logical volume whose disk is broken or whose thin pool is full.
 */
describe.skipIf(!canMount || !have('qemu-img'))('a device that fails when the system writes to it', () => {
  let dir: TempDir;
  let device: string;

  beforeEach(async () => {
    dir = await tempDir('cowherd-failing-');
    mkdirSync(dir.file('small'));
    await mustRun('mount', ['-t', 'tmpfs', '-o', 'size=1M', 'none', dir.file('small')]);
    await mustRun('truncate', ['-s', '16M', dir.file('small/behind')]);
    device = (await mustRun('losetup', ['-f', '--show', dir.file('small/behind')])).trim();
    writeFileSync(dir.file('source'), randomFillSync(Buffer.alloc(4 * 1024 * 1024)));
  });
  afterEach(async () => {
    await mustRun('losetup', ['-d', device]);
    await unmount(dir.file('small'));
    await dir.remove();
  });

  it.each([
    'convert -O raw',
    'convert -n -O raw',
    'convert -n -W -O raw',
    'convert -O qcow2',
    'convert -t writeback -O qcow2',
  ])('is no success of %s', async (line) => {
    const context = testContext({ program: 'cow-img', cwd: dir.path });
    const code = await cowImg([...line.split(' '), '-f', 'raw', dir.file('source'), device], context);
    expect([code, context.err()]).toEqual([1, `cow-img: Could not flush '${device}': Input/output error\n`]);
  });

  it('is no success of what leaves flushes to the system, and of what wrote nothing it is', async () => {
    const store = await openFileStore(device, { writable: true, unflushed: true });
    await store.write(0, randomFillSync(new Uint8Array(4 * 1024 * 1024)));
    await store.flush();
    await expect(store[Symbol.asyncDispose]()).rejects.toMatchObject({
      detail: { lost: true, errno: 'EIO' },
    });
    // It is closed, and its locks are given back, all the same.
    await using again = await openFileStore(device, { create: 'truncate', unflushed: true });
    expect(again.size).toBe(16 * 1024 * 1024);
  });
});
