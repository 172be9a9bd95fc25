import { have, isRoot, mustRun, run } from '../support/programs.ts';
import type { LabBench } from './support.ts';

/** Whether this machine lets us make loop devices. */
export const haveLoops = isRoot && have('losetup') && (await run('losetup', ['-f'])).code === 0;

export interface LoopDevice extends AsyncDisposable {
  readonly path: string;
}

/** A file of so many bytes as a block device. */
export async function loopDevice(bench: LabBench, name: string, bytes: number): Promise<LoopDevice> {
  const file = bench.path(name);
  await mustRun('truncate', ['-s', String(bytes), file]);
  const path = (await mustRun('losetup', ['-f', '--show', file])).trim();
  return { path, [Symbol.asyncDispose]: async () => void (await mustRun('losetup', ['-d', path])) };
}
