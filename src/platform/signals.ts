import { readFileSync, readlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { removeAsides } from './atomic-file.ts';

const ending = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
type EndingSignal = (typeof ending)[number];

/** Signals of the process as a value that commands take. */
export interface SignalWatch extends Disposable {
  /** Aborted by the first SIGINT, SIGTERM or SIGHUP; its reason is a `SignalReceived`. */
  readonly signal: AbortSignal;
  /** The exit code by convention, 128 + number, once a signal came. */
  readonly exitCode: number | undefined;
}

/** Why work was aborted. */
export class SignalReceived extends Error {
  readonly signalName: EndingSignal;
  readonly exitCode: number;

  constructor(signalName: EndingSignal) {
    super(`Ended by ${signalName}`);
    this.name = 'SignalReceived';
    this.signalName = signalName;
    this.exitCode = exitCodeOf(signalName);
  }
}

/** 128 + the signal's number: 130 for SIGINT, 143 for SIGTERM. */
export function exitCodeOf(signalName: NodeJS.Signals): number {
  return 128 + constants.signals[signalName];
}

/**
 * Turns the first SIGINT, SIGTERM or SIGHUP into an abort, so that work in hand can undo what it left half-done.
 * A second one ends the process there and then, its temporary files deleted. Disposing restores the defaults. After `nohup`
 * SIGHUP does nothing.
 */
export function watchSignals(): SignalWatch {
  const controller = new AbortController();
  let exitCode: number | undefined;
  const onSignal = (name: NodeJS.Signals) => {
    if (name === 'SIGHUP' && isUnderNohup()) return;
    if (exitCode !== undefined) {
      removeAsides();
      dieOf(name);
      process.exit(exitCodeOf(name));
    }
    exitCode = exitCodeOf(name);
    controller.abort(new SignalReceived(name as EndingSignal));
  };
  for (const name of ending) process.on(name, onSignal);
  return {
    signal: controller.signal,
    get exitCode() {
      return exitCode;
    },
    [Symbol.dispose]() {
      for (const name of ending) process.off(name, onSignal);
    },
  };
}

/**
 * Ends the process as the signal would have ended it, after the handlers of 'exit': a shell ends its script only where the program that
 * it waits for has died of Ctrl-C. Returns where signals do nothing: to the first process of a container.
 */
export function dieOf(name: NodeJS.Signals): void {
  process.emit('exit', exitCodeOf(name));
  for (const each of ending) process.removeAllListeners(each);
  process.kill(process.pid, name);
}

/**
 * Whether `nohup` has started this process at a terminal. Node puts back what it had set, that SIGHUP be ignored; but it has given us an
 * input too that cannot be read, as nobody else does.
 */
function isUnderNohup(): boolean {
  try {
    const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync('/proc/self/fdinfo/0', 'latin1'));
    return readlinkSync('/proc/self/fd/0') === '/dev/null' && Number.parseInt(flags?.[1] ?? '', 8) % 4 === 1;
  } catch {
    return false;
  }
}

/** Does `work`, which may block the thread, so that a watched signal could not be heard: until it returns, signals do as by default. */
export function withDefaultSignals<T>(work: () => T): T {
  const heard = ending.map((name) => [name, process.rawListeners(name)] as const);
  for (const name of ending) process.removeAllListeners(name);
  try {
    return work();
  } finally {
    for (const [name, listeners] of heard) {
      for (const listener of listeners) process.on(name, listener as NodeJS.SignalsListener);
    }
  }
}
