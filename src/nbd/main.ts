/** The program `cow-nbd`, a drop-in for `qemu-nbd` (also by a link of that name). */
// First, for what it does: it brings in Node's codecs and ciphers.
import '../node.ts';

import { asTold, processContext } from '../cli/process-context.ts';
import { exitNow, exitUnlessAwaited } from '../platform/exit-now.ts';
import { cowNbd, opensInVain } from './cow-nbd.ts';

/** Runs the program with these arguments; gives its exit code. */
export const main = async (args: readonly string[]): Promise<number> => {
  const exitCode = await asTold(cowNbd)(args, processContext('cow-nbd'));
  if (opensInVain()) exitNow(exitCode);
  return exitUnlessAwaited(exitCode);
};
