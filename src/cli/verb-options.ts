import { HelpWanted, UsageFailure } from './failure.ts';
import { Getopt, type LongOption } from './getopt.ts';

/**
 * Reads the options of a verb one after the other; `visit` sees each and may throw. `-h` and `--help` throw
 * HelpWanted; an unknown option or one without its argument throws UsageFailure in qemu-img's words. Returns
 * the operands.
 *
 * `args[0]` is the verb's name. `short` is getopt's option string (`'f:qU'`), without `h`. `unknown` 'help': what is
 * wrong with an option is said by getopt, and answered with the help, as some of qemu-img's verbs do.
 */
export function readOptions(
  args: readonly string[],
  short: string,
  long: readonly LongOption[],
  visit: (key: string, value: string) => void,
  unknown: 'refuse' | 'help' = 'refuse',
): string[] {
  const getopt = new Getopt(args, `h${short}`, [{ name: 'help', argument: 'none', key: 'h' }, ...long]);
  for (let found = getopt.next(); found; found = getopt.next()) {
    if (found.key === 'h') throw new HelpWanted();
    if (unknown === 'help' && (found.key === '?' || found.key === ':')) {
      throw new HelpWanted(`${args[0]}: ${getopt.complaint}`);
    }
    if (found.key === '?') throw new UsageFailure(`unrecognized option '${getopt.shown}'`);
    if (found.key === ':') throw new UsageFailure(`missing argument for option '${getopt.shown}'`);
    visit(found.key, found.value ?? '');
  }
  return getopt.operands();
}

/** Shorthand for a long option that takes no argument. */
export function flag(name: string, key = name): LongOption {
  return { name, argument: 'none', key };
}

/** Shorthand for a long option that needs an argument. */
export function valued(name: string, key = name): LongOption {
  return { name, argument: 'required', key };
}
