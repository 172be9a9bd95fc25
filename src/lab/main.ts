/** The program `cowherd`. A command is added by its file in commands/ and its entry in command-table/. */
// First, for what it does: it brings in Node's codecs and ciphers.
import '../node.ts';

import { asTold, processContext } from '../cli/process-context.ts';
import { end } from '../platform/exit-now.ts';
import { cowherd } from './cowherd.ts';

export { leave } from '../platform/exit-now.ts';

/** Runs the program with these arguments; gives its exit code. */
export const main = async (args: readonly string[]): Promise<number> => {
  const context = processContext('cowherd');
  return end(await asTold(cowherd)(args, context), context.signal);
};
