import type { Command } from '../cli/context.ts';
import { versionText } from '../cli/version.ts';

/** Answers `--help` and `--version`; refuses everything else in one line, with exit code 1. */
export const cowNbd: Command = async (args, context) => {
  const { program, stdout, stderr } = context;
  if (args.includes('--version') || args.includes('-V')) {
    stdout.write(versionText(context));
    return 0;
  }
  if (args.includes('--help') || args.includes('-h')) {
    stdout.write(
      `Usage: ${program} [OPTIONS] FILE\nServe a disk image over NBD\n\n` +
        '  -h, --help      this text\n  -V, --version   the version\n\n' +
        'Serving is not supported yet: use qemu-nbd or nbdkit meanwhile.\n',
    );
    return 0;
  }
  stderr.write(`${program}: serving images over NBD is not supported yet\n`);
  return 1;
};
