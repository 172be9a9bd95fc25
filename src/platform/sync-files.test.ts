import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../../test/support/programs.ts';
import { libc } from './libc.ts';
import { FileSync } from './sync-files.ts';

const mebi = 1024 * 1024;
const canMount =
  libc() !== undefined &&
  isRoot &&
  have('losetup') &&
  have('mkfs.ext4') &&
  (await run('losetup', ['-f'])).code === 0;
/** What became of it is for the kernel to say. */
const lost = expect.stringMatching(/^(io|out-of-space)$/);
const knows = (type: string) => readFileSync('/proc/filesystems', 'latin1').includes(`\t${type}\n`);

/** A file system of 64 MiB on a disk that takes far less: writing to it succeeds, and what is written is lost later. */
describe.skipIf(!canMount)('files on a disk that loses what it is given', () => {
  let dir: TempDir;
  let undo: (() => Promise<void>)[];

  beforeEach(async () => {
    dir = await tempDir('cowherd-sync-files-');
    undo = [];
    for (const name of ['disk', 'inner', 'outer']) mkdirSync(dir.file(name));
    await mount(['-t', 'tmpfs', '-o', 'size=8m', 'none'], 'disk');
    const fd = openSync(dir.file('disk/image'), 'w');
    ftruncateSync(fd, 64 * mebi);
    closeSync(fd);
    await mustRun('mkfs.ext4', ['-q', '-O', '^has_journal', dir.file('disk/image')]);
    const device = (await mustRun('losetup', ['-f', '--show', dir.file('disk/image')])).trim();
    undo.push(async () => void (await mustRun('losetup', ['-d', device])));
    await mount([device], 'inner');
    for (const name of ['upper', 'lower', 'work']) mkdirSync(dir.file(`inner/${name}`));
  });

  afterEach(async () => {
    for (const step of undo.reverse()) await step();
    await dir.remove();
  });

  async function mount(args: readonly string[], on: string): Promise<void> {
    await mustRun('mount', [...args, dir.file(on)]);
    undo.push(() => unmount(dir.file(on)));
  }

  /** FUSE's program goes on for a moment, and holds what lies beneath it. */
  async function unmount(path: string): Promise<void> {
    await expect.poll(async () => (await run('umount', [path])).stderr, { timeout: 10_000 }).toBe('');
  }

  /** Twelve files, of which the disk takes two or three. */
  async function makeDurable(folder: string): Promise<void> {
    using sync = new FileSync([folder]);
    const paths = Array.from({ length: 12 }, (_, i) => `${folder}/${i}`);
    for (const path of paths) writeFileSync(path, Buffer.alloc(2 * mebi, 0x5a));
    await sync.flush(paths);
  }

  it('says which one was lost', async () => {
    await expect(makeDurable(dir.file('inner'))).rejects.toMatchObject({
      code: lost,
      path: expect.stringMatching(/inner\/\d+$/),
    });
  });

  it('answers what syncfs said, though it says so once', async () => {
    const fd = openSync(dir.file('inner'), 'r');
    try {
      writeFileSync(dir.file('inner/large'), Buffer.alloc(24 * mebi, 0x5a));
      expect(await libc()!.pool.syncfs(fd)).toBe(-5);
      expect(await libc()!.pool.syncfs(fd)).toBe(0);
    } finally {
      closeSync(fd);
    }
  });

  it.skipIf(!knows('overlay'))('says so where overlayfs lies over it', async () => {
    const layers = ['lower', 'upper', 'work'].map((name) => `${name}dir=${dir.file(`inner/${name}`)}`);
    await mount(['-t', 'overlay', 'none', '-o', layers.join(',')], 'outer');
    expect(statfsSync(dir.file('outer')).type).toBe(0x794c7630);
    await expect(makeDurable(dir.file('outer'))).rejects.toMatchObject({ code: lost });
  });

  it.skipIf(!knows('fuse') || !have('bindfs'))('says so where FUSE lies over it', async () => {
    await mustRun('bindfs', [dir.file('inner'), dir.file('outer')]);
    undo.push(() => unmount(dir.file('outer')));
    await expect(makeDurable(dir.file('outer'))).rejects.toMatchObject({ code: lost });
  });
});
