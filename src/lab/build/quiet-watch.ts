import { closeSync, lstatSync, openSync, readSync } from 'node:fs';
import { printable } from '../runner/boot-many.ts';

/** What there is to say of an installer that nothing is heard of. */
export interface Quiet {
  readonly minutes: number;
  /** The last that its serial port has said; empty: nothing, or nothing that may be read. */
  readonly said: string;
}

export interface QuietWatchOptions {
  readonly disk: string;
  readonly serialLog: string;
  /** Milliseconds without a sign of life after which it is told. */
  readonly quietMs: number;
  /** How often it looks, in milliseconds. */
  readonly everyMs?: number;
  readonly onQuiet: (quiet: Quiet) => void;
}

/**
 * Looks whether an installer that nobody attends goes on: where neither its disk nor its serial port was written to for so long, it is told,
 * once until there is a sign of life again. It may well wait for an answer that its file of answers does not have.
 */
export function watchForQuiet(options: QuietWatchOptions): Disposable {
  const { disk, serialLog, quietMs, everyMs = 10_000, onQuiet } = options;
  const signs = () => [disk, serialLog].map(signOf).join(' ');
  let last = signs();
  let since = performance.now();
  let told = false;
  const timer = setInterval(() => {
    const now = signs();
    if (now !== last) {
      [last, since, told] = [now, performance.now(), false];
    } else if (!told && performance.now() - since >= quietMs) {
      told = true;
      onQuiet({ minutes: Math.round((performance.now() - since) / 60_000), said: lastWords(serialLog) });
    }
  }, everyMs);
  timer.unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

function signOf(path: string): string {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  return stat === undefined ? '-' : `${stat.size}:${stat.blocks}:${stat.mtimeMs}`;
}

const readBytes = 2048;
const shownLines = 6;

/** The last lines of a log, the one that has not ended too. */
function lastWords(path: string): string {
  const bytes = Buffer.alloc(readBytes);
  let got = 0;
  try {
    const file = openSync(path, 'r');
    try {
      got = readSync(file, bytes, 0, readBytes, Math.max(0, lstatSync(path).size - readBytes));
    } finally {
      closeSync(file);
    }
  } catch {
    // libvirt's log daemon may keep it from us.
  }
  return bytes
    .toString('utf8', 0, got)
    .split(/[\r\n]+/)
    .map((line) => printable(line).trimEnd())
    .filter((line) => line !== '')
    .slice(-shownLines)
    .join('\n');
}
