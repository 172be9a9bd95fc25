import type { LabCommand } from '../commands/command.ts';

export interface OptionSpec {
  /** As commander takes it: `--parallel <n>`. */
  readonly flags: string;
  readonly help: string;
  readonly choices?: readonly string[];
}

/** A command of `cowherd`. Its code is loaded when it is called, so that start-up stays short. */
export interface CommandSpec {
  readonly name: string;
  /** As commander takes them: `[lab] [seats...]`. */
  readonly operands: string;
  /** One line in the list of commands. */
  readonly summary: string;
  readonly description: string;
  readonly options: readonly OptionSpec[];
  /** It makes disks of seats, whose passphrase must be what was meant. */
  readonly makesDisks?: boolean;
  /** Without the program's name. */
  readonly examples: readonly string[];
  load(): Promise<{ readonly run: LabCommand }>;
}
