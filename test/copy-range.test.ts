import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtProgram } from './support/built-program.ts';
import { unmount } from './support/mounts.ts';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from './support/programs.ts';

/*
 * `convert -C`: the system is asked to copy between the files, as strace sees it; and where the file system can share
 * blocks, the copy stands on the blocks of its source, as the file system's own map of the file says.
 */

const dataBytes = 4_000_000;
const pairs = [
  ['raw', 'raw'],
  ['raw', 'qcow2'],
  ['qcow2', 'raw'],
  ['qcow2', 'qcow2'],
] as const;

let tools: TempDir;
let program: readonly [string, string];

beforeAll(async () => {
  tools = await tempDir('cowherd-copy-range-');
  program = await builtProgram(tools.path, 'cow-img', 'qemu-img');
});
afterAll(() => tools?.remove());

async function makeSources(folder: string): Promise<void> {
  writeFileSync(`${folder}/source.raw`, randomBytes(dataBytes));
  truncateSync(`${folder}/source.raw`, 8 * 1024 * 1024);
  await mustRun('qemu-img', ['convert', '-O', 'qcow2', 'source.raw', 'source.qcow2'], { cwd: folder });
}

/** Converts within `folder`, through `wrapper`; what came out is judged by qemu-img. */
async function convert(folder: string, from: string, to: string, wrapper: readonly string[]): Promise<void> {
  const line = ['convert', '-C', '-f', from, '-O', to, `source.${from}`, `copy.${to}`];
  const [command, ...args] = [...wrapper, ...program, ...line];
  await mustRun(command, args, { cwd: folder });
  await mustRun('qemu-img', ['compare', '-f', from, '-F', to, `source.${from}`, `copy.${to}`], {
    cwd: folder,
  });
}

describe.skipIf(!have('qemu-img') || !have('strace'))('convert as strace sees it', () => {
  let folder: TempDir;
  beforeAll(async () => {
    folder = await tempDir('cowherd-copy-range-');
    await makeSources(folder.path);
  });
  afterAll(() => folder?.remove());

  it.each(pairs)('-C, %s to %s: all but the ends goes through copy_file_range', async (from, to) => {
    const trace = folder.file('trace');
    await convert(folder.path, from, to, ['strace', '-f', '-qq', '-e', 'copy_file_range', '-o', trace]);
    const answers = readFileSync(trace, 'utf8').matchAll(/copy_file_range.*= (\d+)$/gm);
    const copied = [...answers].reduce((sum, [, count]) => sum + Number(count), 0);
    expect(copied).toBeGreaterThan(dataBytes - 65536);
  });

  // ext4 takes that for the rewriting of a file, and has closing it wait for the disk.
  it.each(['raw', 'qcow2', 'vmdk', 'vdi', 'vpc', 'vhdx'])(
    'a new %s file is never cut to nothing',
    async (to) => {
      const trace = folder.file('trace');
      const argv = [...program, 'convert', '-O', to, folder.file('source.raw'), folder.file(`whole.${to}`)];
      await mustRun('strace', ['-f', '-qq', '-e', 'ftruncate,pwrite64', '-o', trace, ...argv]);
      const calls = readFileSync(trace, 'utf8');
      expect(calls).toContain('pwrite64');
      expect(calls).not.toMatch(/ftruncate\(\d+, 0\)/);
    },
  );
});

describe.skipIf(!have('qemu-img') || !isRoot).each(['btrfs', 'xfs'])('convert -C on %s', (fileSystem) => {
  const able = have(`mkfs.${fileSystem}`) && have('filefrag');

  it.skipIf(!able)('shares the blocks of the source', async () => {
    await using folder = await tempDir('cowherd-reflink-');
    const mount = folder.file('mount');
    mkdirSync(mount);
    writeFileSync(folder.file('disk'), '');
    truncateSync(folder.file('disk'), 512 * 1024 * 1024);
    await mustRun(`mkfs.${fileSystem}`, ['-q', folder.file('disk')]);
    await mustRun('mount', ['-o', 'loop', folder.file('disk'), mount]);
    try {
      await makeSources(mount);
      await mustRun('sync', ['-f', mount]);
      for (const [from, to] of pairs) {
        await convert(mount, from, to, []);
        await mustRun('sync', ['-f', mount]);
        const { stdout } = await run('filefrag', ['-v', `${mount}/copy.${to}`]);
        const shared = [...stdout.matchAll(/^ *\d+: *\d+\.\. *\d+: *\d+\.\. *\d+: *(\d+):.*shared/gm)];
        const blocks = shared.reduce((sum, [, count]) => sum + Number(count), 0);
        expect(blocks * 4096, `${from} to ${to}\n${stdout}`).toBeGreaterThan(dataBytes - 65536);
      }
    } finally {
      await unmount(mount);
    }
  });
});
