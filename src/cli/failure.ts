/**
 * Ends a verb with a message and an exit code. The program's name is put before the message; `hint` follows
 * it as it is, on the next line, without the name. An empty message prints nothing.
 */
export class CliFailure extends Error {
  readonly exitCode: number;
  readonly hint?: string;

  constructor(message: string, options: { exitCode?: number; hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CliFailure';
    this.exitCode = options.exitCode ?? 1;
    this.hint = options.hint;
  }
}

/** A command line that cannot be understood: the message and where to read on. */
export class UsageFailure extends CliFailure {
  constructor(message: string, exitCode = 1) {
    super(message, { exitCode });
    this.name = 'UsageFailure';
  }
}

/**
 * `-h` or `--help` among a verb's options: the whole help is printed, exit code 0. The message, if any, is what was
 * wrong with an option of a verb that answers so: it goes to stderr.
 */
export class HelpWanted extends Error {
  override readonly name = 'HelpWanted';
}
