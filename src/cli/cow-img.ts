import { firstError, isDiskError } from '../errors.ts';
import { SignalReceived } from '../platform/signals.ts';
import type { CliContext, Command } from './context.ts';
import { CliFailure, HelpWanted, UsageFailure } from './failure.ts';
import { Getopt } from './getopt.ts';
import { explain, report } from './messages.ts';
import { versionText } from './version.ts';

/** The verbs that exist. Each is loaded when it is called, so that start-up stays short. */
const verbs: Readonly<Record<string, () => Promise<{ readonly run: Command }>>> = {
  amend: () => import('./verbs/amend.ts'),
  bench: () => import('./verbs/bench.ts'),
  bitmap: () => import('./verbs/bitmap.ts'),
  check: () => import('./verbs/check.ts'),
  commit: () => import('./verbs/commit.ts'),
  compare: () => import('./verbs/compare.ts'),
  convert: () => import('./verbs/convert.ts'),
  create: () => import('./verbs/create.ts'),
  dd: () => import('./verbs/dd.ts'),
  info: () => import('./verbs/info.ts'),
  map: () => import('./verbs/map.ts'),
  measure: () => import('./verbs/measure.ts'),
  rebase: () => import('./verbs/rebase.ts'),
  resize: () => import('./verbs/resize.ts'),
  snapshot: () => import('./verbs/snapshot.ts'),
};

/** The program `cow-img`, as a function: `args` without the program's name. Never throws. */
export const cowImg: Command = async (args, context) => {
  const last: (() => void)[] = [];
  const own: CliContext = Object.create(context, { atEnd: { value: (work: () => void) => last.push(work) } });
  try {
    return await dispatch(args, own);
  } catch (error) {
    if (!(error instanceof HelpWanted)) return answerFor(error, context);
    if (error.message !== '') context.stderr.write(`${error.message}\n`);
    const { helpText } = await import('./help.ts');
    context.stdout.write(helpText(context));
    return 0;
  } finally {
    for (const work of last) work();
  }
};

async function dispatch(args: readonly string[], context: CliContext): Promise<number> {
  const getopt = new Getopt([context.program, ...args], '+hVT:', [
    { name: 'help', argument: 'none', key: 'h' },
    { name: 'version', argument: 'none', key: 'V' },
    { name: 'trace', argument: 'required', key: 'T' },
  ]);
  if (args.length === 0) throw new UsageFailure('Not enough arguments');
  for (let found = getopt.next(); found; found = getopt.next()) {
    if (found.key === ':') throw new UsageFailure(`missing argument for option '${getopt.shown}'`);
    if (found.key === '?') throw new UsageFailure(`unrecognized option '${getopt.shown}'`);
    if (found.key === 'h') throw new HelpWanted();
    if (found.key === 'V') {
      context.stdout.write(versionText('qemu-img version'));
      return 0;
    }
    // -T: tracing is QEMU's own; nothing here has trace points, so the option is accepted and does nothing.
  }
  const [verb, ...rest] = getopt.operands();
  // qemu-img takes options without a command for nothing to do.
  if (verb === undefined) return 0;
  if (!Object.hasOwn(verbs, verb)) throw new UsageFailure(`Command not found: ${verb}`);
  const { run } = await verbs[verb]();
  return run([verb, ...rest], context);
}

/** Where a verb has put words around it, too. */
function isStopped(error: unknown, { reason }: AbortSignal): boolean {
  const cause = error instanceof CliFailure ? error.cause : error;
  return cause === reason || isDiskError(cause, 'aborted');
}

function answerFor(thrown: unknown, context: CliContext): number {
  const error = firstError(thrown);
  if (context.env.COWHERD_DEBUG === '1' && error instanceof Error) context.stderr.write(`${error.stack}\n`);
  if (context.signal.aborted && isStopped(error, context.signal)) {
    // As if the signal had ended the process, which is what scripts that look at the code expect.
    const { reason } = context.signal;
    return reason instanceof SignalReceived ? reason.exitCode : 130;
  }
  const { text, hint } = explain(error);
  if (text !== '') report(context, text);
  if (hint) context.stderr.write(hint);
  if (error instanceof UsageFailure) {
    context.stderr.write(`Try '${context.program} --help' for more information\n`);
  }
  return error instanceof CliFailure ? error.exitCode : 1;
}
