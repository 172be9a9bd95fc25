import { writeSync } from 'node:fs';

let wanted = true;

/** For programs that end as they mean to. */
export function noExitWarnings(): void {
  wanted = false;
}

/** Says, when this process or thread ends by itself, what `find` finds then. By hand: `emitWarning` would come too late. */
export function warnAtExit(code: string, find: () => string | undefined): void {
  process.once('exit', () => {
    const message = wanted && process.env.NODE_NO_WARNINGS !== '1' ? find() : undefined;
    if (message === undefined) return;
    try {
      writeSync(2, `(node:${process.pid}) [${code}] CowherdWarning: ${message}\n`);
    } catch {
      // Nobody reads it.
    }
  });
}
