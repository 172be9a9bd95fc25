import { mkdir } from 'node:fs/promises';
import { mustRun } from '../support/programs.ts';

/** Snapshots with zero clusters (bare, with a cluster of their own, with one that another snapshot reads); data files. */
// What a line names is copied for it: a data file and a backing file have names that their image's holds.
export async function zeroesAndDataFiles(path: string): Promise<void> {
  await mkdir(path);
  const img = (line: string) => mustRun('qemu-img', line.split(' '), { cwd: path });
  const io = (name: string, ...commands: string[]) =>
    mustRun('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), name], {
      cwd: path,
    });
  const sizes = 'create -q -f qcow2 -o cluster_size=4k';
  for (const name of ['bare', 'own', 'shared']) await img(`${sizes} ${name}.qcow2 1M`);
  await io('bare.qcow2', 'write -z 0 64k', 'write -P 3 128k 64k');
  await io('own.qcow2', 'write -P 4 0 64k', 'write -z 0 64k', 'write -P 3 900k 8k');
  await io('shared.qcow2', 'write -P 5 0 64k');
  await img('snapshot -c before shared.qcow2');
  await io('shared.qcow2', 'write -z 8k 16k');
  for (const name of ['bare', 'own', 'shared']) {
    await img(`snapshot -c one ${name}.qcow2`);
    await io(`${name}.qcow2`, 'write -P 6 4k 32k');
  }
  await img('create -q -f raw over 1M');
  await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 1M', 'over'], { cwd: path });
  await img(`${sizes} -b over -F raw over.qcow2`);
  await io('over.qcow2', 'write -z 0 64k');
  await img('snapshot -c one over.qcow2');
  // Two snapshots stand on the same tables; some zero clusters have a place in the file, one of them data of the first.
  await img(`${sizes} -b over -F raw overs.qcow2`);
  await io('overs.qcow2', 'write -P 3 0 96k');
  await img('snapshot -c before overs.qcow2');
  await io('overs.qcow2', 'write -z 32k 200k', 'write -z -u 512k 64k');
  await img('snapshot -c one overs.qcow2');
  await img('snapshot -c two overs.qcow2');
  await io('overs.qcow2', 'write -P 6 40k 8k');
  await img('create -q -f qcow2 -o data_file=ext ext.qcow2 1M');
  await img('create -q -f qcow2 -o data_file=extraw,data_file_raw=on extraw.qcow2 1M');
  await io('ext.qcow2', 'write -P 7 0 64k');
  await mustRun('cp', ['ext', 'b.data'], { cwd: path });
}
