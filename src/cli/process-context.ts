import { fstatSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { bytesOf, isText } from '../bytes/byte-text.ts';
import { errnoOf } from '../platform/errno.ts';
import { noExitWarnings } from '../platform/exit-warning.ts';
import { untrueNames } from '../platform/host-names.ts';
import { watchSignals } from '../platform/signals.ts';
import { onLocksMissing } from '../storage/file-lock.ts';
import { askSecret } from './ask-secret.ts';
import type { CliContext, Command, OutputStream } from './context.ts';

/**
 * The world of a real process. `program` is the name to use where the process was not started by one of its
 * own (`node cow-img.mjs`).
 *
 * The first SIGINT, SIGTERM or SIGHUP aborts `signal`, so that work can be undone; the second of them ends the
 * process at once.
 */
export function processContext(program: string): CliContext {
  const listeners = new Set<() => void>();
  // Always listened to: left alone, Node would open its debugger's port at SIGUSR1.
  process.on('SIGUSR1', () => {
    for (const listener of listeners) listener();
  });
  const { signal } = watchSignals();
  noExitWarnings();
  const name = startedAs(process.argv[1]) ?? program;
  const stderr = outputStream(2, () => process.stderr);
  onLocksMissing((message) => stderr.write(`${name}: warning: ${message}\n`));
  return {
    program: name,
    stdout: outputStream(1, () => process.stdout),
    stderr,
    get stdin() {
      return process.stdin;
    },
    env: process.env,
    cwd: workingDirectory(),
    signal,
    onProgressSignal(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    get askSecret() {
      if (!mayBeTerminal(0) || !process.stdin.isTTY) return undefined;
      return (prompt: string) =>
        askSecret(prompt, {
          input: process.stdin,
          write: (text) => process.stderr.write(text),
          signal,
          interrupt: () => process.kill(process.pid, 'SIGINT'),
          // All of the job, as the terminal does it.
          suspend: () => process.kill(0, 'SIGTSTP'),
          onContinued(listener) {
            process.on('SIGCONT', listener);
            return () => process.off('SIGCONT', listener);
          },
          onQuit(listener) {
            const onSignal = () => {
              listener();
              process.off('SIGQUIT', onSignal);
              process.kill(process.pid, 'SIGQUIT');
            };
            process.on('SIGQUIT', onSignal);
            return () => process.off('SIGQUIT', onSignal);
          },
        });
    },
    now: () => Date.now(),
  };
}

/** Of a folder that was deleted the system gives no name: what is looked for in it is not found, and absolute names are as ever. */
export function workingDirectory(): string {
  try {
    return process.cwd();
  } catch {
    return '/proc/self/cwd';
  }
}

/**
 * A program that takes only what it was truly told: arguments in other bytes than UTF-8, and a current folder of such a name, reach Node
 * as the name of another file. They are refused before anything is done.
 */
export function asTold(program: Command): Command {
  return async (args, context) => {
    const refusal = untrueNames(args, context.cwd);
    if (refusal === undefined) return program(args, context);
    context.stderr.write(`${context.program}: ${refusal}\n`);
    return 1;
  };
}

/** The name in messages: that of the link the program was started by, without an extension of ours. */
function startedAs(path: string | undefined): string | undefined {
  if (!path) return undefined;
  return basename(path).replace(/\.(?:[cm]?js|ts)$/, '') || undefined;
}

/** Linux's number for devices such as /dev/null. */
const memoryDevices = 1;

/** Whether a descriptor is a device, and not `/dev/null`. Node takes milliseconds to make the stream that knows. */
function mayBeTerminal(fd: number): boolean {
  try {
    const stats = fstatSync(fd);
    return stats.isCharacterDevice() && !(process.platform === 'linux' && stats.rdev >> 8 === memoryDevices);
  } catch {
    return true;
  }
}

/**
 * Writes to a descriptor as Node's streams do, at once and where nobody reads any more in silence; but those take 5 ms to
 * make: so one is made only where the reader is slow and the descriptor does not wait for it, or where there is a terminal.
 */
function outputStream(fd: number, open: () => NodeJS.WriteStream): OutputStream {
  const terminal = mayBeTerminal(fd);
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
      const rest = terminal || opened ? text : writeNow(fd, text);
      if (rest !== undefined)
        stream().write(typeof rest === 'string' && !isText(rest) ? bytesOf(rest) : rest);
    },
    get isTTY() {
      return terminal && stream().isTTY === true;
    },
    get columns() {
      // Some terminals say 0.
      return (terminal && stream().columns) || 80;
    },
  };
}

/** Writes what can be written at once; gives what is left where the descriptor takes no more for now. */
function writeNow(fd: number, text: string | Uint8Array): Uint8Array | undefined {
  const bytes = typeof text === 'string' ? bytesOf(text) : text;
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(fd, bytes, done);
    } catch (error) {
      if (errnoOf(error) === 'EAGAIN') return bytes.subarray(done);
      return undefined;
    }
  }
  return undefined;
}
