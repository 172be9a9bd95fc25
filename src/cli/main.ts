/**
 * The program `cow-img`, a drop-in for `qemu-img` (also by a link of that name: messages carry the name that it
 * was started by).
 *
 * How a verb is added:
 * 1. `verbs/NAME.ts` exports `run: Command`. It gets the arguments with the verb's own name as `args[0]` and
 *    returns the exit code. Options are read by `readOptions` (verb-options.ts); output goes to
 *    `context.stdout.write`, and what ends the verb is thrown: `CliFailure` (message, exit code, hint lines),
 *    `UsageFailure` (adds "Try 'qemu-img --help' …"), `HelpWanted`. A DiskError that nobody worded is worded by
 *    `messages.ts`, the one home of qemu-img's words: `couldNotOpen(filename, error, exitCode?)` makes
 *    the usual failure of opening an image.
 * 2. One line in the table `verbs` of cow-img.ts, and its synopsis in help.ts.
 * 3. Rows in test/differential/ that run it against the installed qemu-img.
 * The work itself lives in `operations/`; a verb only translates words.
 */
// First, for what it does: it brings in Node's codecs and ciphers.
import '../node.ts';

import { end } from '../platform/exit-now.ts';
import { cowImg } from './cow-img.ts';
import { asTold, processContext } from './process-context.ts';

export { leave } from '../platform/exit-now.ts';

/** Runs the program with these arguments; gives its exit code. */
export const main = async (args: readonly string[]): Promise<number> => {
  const context = processContext('cow-img');
  return end(await asTold(cowImg)(args, context), context.signal);
};
