/**
 * What a command gets of the world, so that it can be tested without a process. A command is a function of
 * (arguments, context) that returns an exit code; it never calls process.exit.
 */
export interface CliContext {
  /** The name the program was started by (`cow-img`, or `qemu-img` through a link), for messages. */
  readonly program: string;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly stdin: AsyncIterable<Uint8Array>;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** Aborted by the first Ctrl-C (SIGINT), SIGTERM or SIGHUP. */
  readonly signal: AbortSignal;
  /** Calls back at each SIGUSR1 (qemu-img prints its progress then); returns how to stop. */
  onProgressSignal(listener: () => void): () => void;
  /** Asks for a passphrase without showing it; absent where nobody sits at a terminal. The caller wipes it. */
  askSecret?(prompt: string): Promise<Uint8Array>;
  /** What is to be done when the command has ended, however it did. */
  atEnd?(work: () => void): void;
  /** Milliseconds since the epoch. */
  now(): number;
}

export interface OutputStream {
  write(text: string | Uint8Array): void;
  readonly isTTY: boolean;
  /** Characters a line; 80 where unknown. */
  readonly columns: number;
}

export type Command = (args: readonly string[], context: CliContext) => Promise<number>;
