/** The program `cow-nbd` (by a link also `qemu-nbd`). Serving images over NBD is not built yet, and it says so. */
import { processContext } from '../cli/process-context.ts';
import { cowNbd } from './cow-nbd.ts';

/** Runs the program with these arguments; gives its exit code. */
export const main = (args: readonly string[]): Promise<number> => cowNbd(args, processContext('cow-nbd'));
