import { libc, libcIfLoaded } from './libc.ts';
import { derivationsUnderWay } from './openssl.ts';
import { dieOf, SignalReceived } from './signals.ts';

/** The end of a program: by the signal that aborted its work where `exitCode` says so, else as `exitUnlessAwaited` has it. */
export function end(exitCode: number, { reason }: AbortSignal): number {
  if (reason instanceof SignalReceived && reason.exitCode === exitCode) dieOf(reason.signalName);
  return exitUnlessAwaited(exitCode);
}

/**
 * Ends the process if it would only wait: Node joins the threads of its pool when it exits, and one that derives a key for
 * somebody who wants it no more cannot be stopped. To be called when all else is done. Without koffi it is waited for.
 */
export function exitUnlessAwaited(exitCode: number): number {
  if (derivationsUnderWay() > 0) exitNow(exitCode);
  return exitCode;
}

/**
 * Ends a program whose work is done and that has nothing left to wait for as the system does it: Node and V8 take 5 ms to put away
 * what the system takes back in any case. Handlers of 'exit' are called. Where something is waited for, or wants to be
 * told at the end of the process (a profile, coverage), the process ends by itself as ever.
 */
export function leave(exitCode: number): void {
  const system = libcIfLoaded();
  if (!system || process.execArgv.length > 0 || process.env.NODE_OPTIONS || process.env.NODE_V8_COVERAGE)
    return;
  if (process.getActiveResourcesInfo().length > 0) return;
  process.emit('exit', exitCode);
  system.exit(exitCode);
}

/** Ends the process there and then: nothing is awaited, and nothing that Node still holds is written. */
export function exitNow(exitCode: number): void {
  libc()?.exit(exitCode);
  // Then as Node does it.
  process.exit(exitCode);
}
