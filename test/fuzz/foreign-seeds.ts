import { readFile, writeFile } from 'node:fs/promises';
import { mustRun, type TempDir } from '../support/programs.ts';

/**
 * Images with what we may not write ourselves, made by qemu-img and qemu-io: packed clusters, snapshots,
 * bitmaps, extended L2 entries, zstd, data files. By name, `qemu FORMAT WHAT`.
 */
export async function foreignSeeds(folder: TempDir): Promise<Map<string, Uint8Array>> {
  const cwd = folder.path;
  const img = (...args: string[]) => mustRun('qemu-img', args, { cwd });
  const io = (file: string, ...commands: string[]) =>
    mustRun('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), file], { cwd });
  const source = new Uint8Array(256 * 1024);
  for (let at = 0; at < source.length; at += 3) source[at] = (at >> 8) % 251;
  await writeFile(folder.file('source'), source);
  await writeFile(folder.file('backing'), source.subarray(0, 96 * 1024));

  const create = (file: string, size: string, options: string) =>
    img('create', '-q', '-f', 'qcow2', '-o', options, file, size);
  for (const [file, options] of [
    ['zlib', 'cluster_size=4k'],
    ['zlib-v2', 'cluster_size=512,compat=0.10'],
    ['zstd', 'cluster_size=4k,compression_type=zstd'],
  ] as const) {
    await img('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', options, 'source', file);
  }
  await create('snapshots', '200k', 'cluster_size=1k');
  await io('snapshots', 'write -P 1 0 30k', 'write -z 40k 9k');
  await img('snapshot', '-c', 'one', 'snapshots');
  await io('snapshots', 'write -P 2 10k 50k');
  await img('snapshot', '-c', 'two', 'snapshots');
  await io('snapshots', 'write -P 3 0 3k', 'discard 90k 20k');
  await create('bitmaps', '1M', 'cluster_size=4k');
  await img('bitmap', '--add', '-g', '64k', 'bitmaps', 'b0');
  await img('bitmap', '--add', '--disable', 'bitmaps', 'another');
  await io('bitmaps', 'write -P 4 100k 300k');
  await create('extended', '512k', 'cluster_size=16k,extended_l2=on');
  await io('extended', 'write -P 5 1k 40k', 'write -z 100k 10k', 'discard 20k 8k');
  await img(
    'create',
    '-q',
    '-f',
    'qcow2',
    '-b',
    'backing',
    '-F',
    'raw',
    '-o',
    'cluster_size=2k',
    'overlay',
    '160k',
  );
  await io('overlay', 'write -P 6 5k 30k', 'write -z 64k 16k');
  await img(
    'create',
    '-q',
    '-f',
    'qcow2',
    '-o',
    'cluster_size=4k,data_file=data,data_file_raw=on',
    'external',
    '96k',
  );
  await io('external', 'write -P 7 3k 30k');

  const seeds = new Map<string, Uint8Array>();
  for (const name of ['zlib', 'zlib-v2', 'zstd', 'snapshots', 'bitmaps', 'extended', 'overlay', 'external']) {
    seeds.set(`qemu qcow2 ${name}`, new Uint8Array(await readFile(folder.file(name))));
  }
  return seeds;
}
