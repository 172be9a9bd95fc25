import { basename } from 'node:path';
import { watchSignals } from '../platform/signals.ts';
import { askSecret } from './ask-secret.ts';
import type { CliContext, OutputStream } from './context.ts';

/**
 * The world of a real process. `program` is the name to use where the process was not started by one of its
 * own (`node cow-img.mjs`).
 *
 * The first SIGINT, SIGTERM or SIGHUP aborts `signal`, so that work can be undone; the second of them ends the
 * process at once.
 */
export function processContext(program: string): CliContext {
  const { signal } = watchSignals();
  const listeners = new Set<() => void>();
  // Always listened to: left alone, Node would open its debugger's port at SIGUSR1.
  process.on('SIGUSR1', () => {
    for (const listener of listeners) listener();
  });
  return {
    program: startedAs(process.argv[1]) ?? program,
    stdout: outputStream(() => process.stdout),
    stderr: outputStream(() => process.stderr),
    get stdin() {
      return process.stdin;
    },
    env: process.env,
    cwd: process.cwd(),
    signal,
    onProgressSignal(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    get askSecret() {
      if (!process.stdin.isTTY) return undefined;
      return (prompt: string) =>
        askSecret(prompt, {
          input: process.stdin,
          write: (text) => process.stderr.write(text),
          signal,
          interrupt: () => process.kill(process.pid, 'SIGINT'),
        });
    },
    now: () => Date.now(),
  };
}

/** The name in messages: that of the link the program was started by, without an extension of ours. */
function startedAs(path: string | undefined): string | undefined {
  if (!path) return undefined;
  return basename(path).replace(/\.(?:[cm]?js|ts)$/, '') || undefined;
}

/** Node makes its streams when they are asked for, a millisecond or two each: not before there is something to say. */
function outputStream(open: () => NodeJS.WriteStream): OutputStream {
  let opened: NodeJS.WriteStream | undefined;
  const stream = () => {
    if (!opened) {
      opened = open();
      // A reader that went away (`| head`) is no reason for a stack trace.
      opened.on('error', () => undefined);
    }
    return opened;
  };
  return {
    write(text) {
      stream().write(text);
    },
    get isTTY() {
      return stream().isTTY === true;
    },
    get columns() {
      // Some terminals say 0.
      return stream().columns || 80;
    },
  };
}
