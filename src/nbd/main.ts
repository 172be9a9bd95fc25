/** The program `cow-nbd`, a drop-in for `qemu-nbd` (also by a link of that name). */
import { processContext } from '../cli/process-context.ts';
import { cowNbd } from './cow-nbd.ts';

/** Runs the program with these arguments; gives its exit code. */
export const main = (args: readonly string[]): Promise<number> => cowNbd(args, processContext('cow-nbd'));
