/** The program `cowherd`. A command is added by its file in commands/ and its entry in command-table/. */
import { processContext } from '../cli/process-context.ts';
import { cowherd } from './cowherd.ts';

/** Runs the program with these arguments; gives its exit code. */
export const main = (args: readonly string[]): Promise<number> => cowherd(args, processContext('cowherd'));
