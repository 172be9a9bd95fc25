import type { CliContext, OutputStream } from '../../src/cli/context.ts';

/** A context that keeps what is written, for tests of commands without a process. */
export interface TestContext extends CliContext {
  /** All that was written to stdout (stderr) up to now. Bytes that are not UTF-8 become U+FFFD. */
  out(): string;
  err(): string;
  /** Delivers a SIGUSR1. */
  askProgress(): void;
}

export interface TestContextOptions {
  readonly program?: string;
  readonly cwd?: string;
  readonly env?: CliContext['env'];
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly signal?: AbortSignal;
  readonly stdin?: string | AsyncIterable<Uint8Array>;
  readonly now?: () => number;
}

export function testContext(options: TestContextOptions = {}): TestContext {
  const stdout = capture(options);
  const stderr = capture(options);
  const listeners = new Set<() => void>();
  return {
    program: options.program ?? 'cow-img',
    stdout,
    stderr,
    stdin: typeof options.stdin === 'object' ? options.stdin : once(options.stdin ?? ''),
    env: options.env ?? {},
    cwd: options.cwd ?? '/',
    signal: options.signal ?? new AbortController().signal,
    onProgressSignal(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    now: options.now ?? (() => Date.now()),
    out: stdout.text,
    err: stderr.text,
    askProgress() {
      for (const listener of listeners) listener();
    },
  };
}

function capture(options: TestContextOptions): OutputStream & { text(): string } {
  const decoder = new TextDecoder();
  let text = '';
  return {
    isTTY: options.isTTY ?? false,
    columns: options.columns ?? 80,
    write(piece) {
      text += typeof piece === 'string' ? piece : decoder.decode(piece, { stream: true });
    },
    text: () => text,
  };
}

async function* once(text: string): AsyncIterable<Uint8Array> {
  if (text !== '') yield new TextEncoder().encode(text);
}
