import { loadKoffi } from './koffi.ts';
import { derivationsUnderWay } from './openssl.ts';

/**
 * Ends the process if it would only wait: Node joins the threads of its pool when it exits, and one that derives a key for
 * somebody who wants it no more cannot be stopped. To be called when all else is done. Without koffi it is waited for.
 */
export function exitUnlessAwaited(exitCode: number): number {
  if (derivationsUnderWay() > 0) exitNow(exitCode);
  return exitCode;
}

/** Ends the process there and then: nothing is awaited, and nothing that Node still holds is written. */
export function exitNow(exitCode: number): void {
  try {
    loadKoffi()?.load(null).func('void _exit(int status)')(exitCode);
  } catch {
    // Then as Node does it.
  }
  process.exit(exitCode);
}
