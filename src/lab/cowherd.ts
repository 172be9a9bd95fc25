import { Command, CommanderError, Option } from 'commander';
import type { CliContext, Command as Program } from '../cli/context.ts';
import { askTwice } from '../cli/missing-key.ts';
import { version } from '../cli/version.ts';
import { firstError, isDiskError } from '../errors.ts';
import { exitCodeOf, SignalReceived } from '../platform/signals.ts';
import type { CommandSpec } from './command-table/spec.ts';
import { commands } from './command-table.ts';
import type { Input } from './commands/command.ts';
import { describeError } from './messages.ts';
import { type AskPassphrase, askPassphraseBy, forgetPassphrases } from './seats/passphrase-memory.ts';

/** Exit code for a command line that cannot be understood. */
const usageExit = 2;

/** The program `cowherd`, as a function: `args` without the program's name. Never throws. */
export const cowherd: Program = async (args, context) => {
  let exitCode = 0;
  const program = buildProgram(context, async (spec, input) => {
    const { run } = await spec.load();
    await sweepLeftovers();
    askPassphraseBy(passphraseAsker(context, spec.makesDisks === true));
    try {
      exitCode = await run(input, context);
    } finally {
      await forgetPassphrases();
    }
  });
  try {
    if (args.length === 0) {
      program.outputHelp();
      return usageExit;
    }
    await program.parseAsync([...args], { from: 'user' });
    return exitCode;
  } catch (error) {
    // Commander has said everything itself by then.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : usageExit;
    return answerFor(error, context);
  }
};

/** What a command that was killed left on its way to other programs, passphrases too, goes with the next one. */
async function sweepLeftovers(): Promise<void> {
  const { sweepPrivateFolders } = await import('../platform/scratch-folder.ts');
  const { runtimeDir } = await import('./runner/runtime-dir.ts');
  sweepPrivateFolders();
  sweepPrivateFolders(runtimeDir());
}

/** `twice`: a slip would make disks that nobody opens again. */
function passphraseAsker(context: CliContext, twice: boolean): AskPassphrase | undefined {
  if (!context.askSecret) return undefined;
  return async (lab) => {
    const prompt = `Passphrase of ${lab}: `;
    return twice ? askTwice(context, prompt) : context.askSecret!(prompt);
  };
}

function answerFor(thrown: unknown, context: CliContext): number {
  const error = firstError(thrown);
  if (context.env.COWHERD_DEBUG === '1' && error instanceof Error) context.stderr.write(`${error.stack}\n`);
  context.stderr.write(`${describeError(error, context)}\n`);
  if (context.signal.aborted) {
    // As if the signal had ended the process, which is what scripts that look at the code expect.
    const { reason } = context.signal;
    return reason instanceof SignalReceived ? reason.exitCode : exitCodeOf('SIGINT');
  }
  return isDiskError(error, 'bad-argument') ? usageExit : 1;
}

function buildProgram(context: CliContext, run: (spec: CommandSpec, input: Input) => Promise<void>): Command {
  const program = new Command(context.program)
    .description('Golden images, herds of clones: one master image, many guests.')
    .version(`cowherd ${version}`, '-V, --version')
    .configureOutput({
      writeOut: (text) => context.stdout.write(text),
      writeErr: (text) => context.stderr.write(text),
      getOutHelpWidth: () => context.stdout.columns,
      getErrHelpWidth: () => context.stderr.columns,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .exitOverride()
    .showHelpAfterError(`Try '${context.program} --help'.`)
    .helpCommand(false)
    .addHelpText('after', overview(context));
  for (const spec of commands) addCommand(program, spec, context, run);
  return program;
}

function addCommand(
  program: Command,
  spec: CommandSpec,
  context: CliContext,
  run: (spec: CommandSpec, input: Input) => Promise<void>,
): void {
  const command = program
    .command(`${spec.name}${spec.operands === '' ? '' : ` ${spec.operands}`}`)
    .summary(spec.summary)
    .description(spec.description)
    .showHelpAfterError(`Try '${context.program} ${spec.name} --help'.`)
    .addHelpText(
      'after',
      `\nExamples:\n${spec.examples.map((one) => `  $ ${context.program} ${one}`).join('\n')}`,
    );
  for (const { flags, help, choices } of spec.options) {
    const option = new Option(flags, help);
    command.addOption(choices ? option.choices(choices) : option);
  }
  command.action(async () => {
    await run(spec, { operands: command.args, options: command.opts() });
  });
}

function overview(context: CliContext): string {
  return `
A lab file takes three lines (it is lab.yaml where none is named):
  lab: networking-101
  master: masters/debian-12.qcow2
  seats: 40

Examples:
  $ ${context.program} demo                                   everything at work, in a minute
  $ ${context.program} up classroom.yaml                      makes 40 seats
  $ ${context.program} start classroom.yaml                   boots them
  $ ${context.program} reset classroom.yaml student-03        as fresh as the master

'${context.program} COMMAND --help' tells more.`;
}
