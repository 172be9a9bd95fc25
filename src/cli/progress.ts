import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import { fixed2 } from './fixed.ts';

/** Where long work says how far it is. */
export interface Progress {
  /** Bytes (or units) done of `total`. */
  update(done: number, total: number): void;
  /** Ends the display; `update` is not called any more. */
  end(): void;
}

/** qemu-img's progress, which can also be given in percent. */
export interface PercentProgress extends Progress {
  reach(percent: number): void;
  /** Whether anybody has asked for figures so far. Until then whoever has to count first need not give any. */
  readonly watched: boolean;
}

/**
 * qemu-img's progress: with `-p` on stdout, each full percent, in place; without it on stderr when SIGUSR1
 * arrives. Figures are single-precision floats with two digits, as qemu-img computes them. `skip`: percent that
 * must have been added before the next figure is shown. 'json': for programs, see `progressStyle`. `onDemand`: figures come
 * only when `watched` is true, so that the first signal is answered with the figure after it.
 */
export function qemuProgress(
  context: CliContext,
  shown: boolean | 'json',
  { skip = 1, onDemand = false }: { readonly skip?: number; readonly onDemand?: boolean } = {},
): PercentProgress {
  if (shown === 'json') return jsonProgress(context);
  let percent = 0;
  let lastPrinted = 0;
  let watched = shown;
  let known = shown || !onDemand;
  let owed = false;
  const print = (): void => {
    const figure = `    (${fixed2(percent)}/100%)`;
    if (shown) context.stdout.write(`${figure}\r`);
    else context.stderr.write(`${figure}\n`);
  };
  const answer = (): void => {
    watched = true;
    if (known) print();
    else owed = true;
  };
  const stop = shown ? () => undefined : context.onProgressSignal(answer);
  if (shown) print();
  const reach = (wanted: number): void => {
    percent = Math.min(100, Math.fround(wanted));
    known = true;
    if (owed) print();
    owed = false;
    if (!shown) return;
    if (percent > lastPrinted + skip || percent < lastPrinted || percent === 100 || percent === 0) {
      lastPrinted = percent;
      print();
    }
  };
  return {
    update: (done, total) => reach(total > 0 ? (done / total) * 100 : 100),
    reach,
    get watched() {
      return watched;
    },
    end() {
      stop();
      if (shown) context.stdout.write('\n');
    },
  };
}

/** The value of `--progress`, an option of our own. Throws CliFailure for any but `json`. */
export function progressStyle(value: string): 'json' {
  if (value === 'json') return 'json';
  throw new CliFailure('--progress must be used with json as argument.');
}

/**
 * Progress for programs, on stderr: a line of JSON for each full percent, with the units done where they are known
 * (bytes, mostly): `{"progress":{"percent":25.5,"done":267386880,"total":1048576000}}`. The last line says 100 when
 * the work has succeeded.
 */
function jsonProgress(context: CliContext): PercentProgress {
  let last = -1;
  const say = (percent: number, units: Readonly<Record<string, number>>): void => {
    const whole = Math.floor(percent);
    if (whole <= last) return;
    last = whole;
    const figures = { percent: Math.round(percent * 100) / 100, ...units };
    context.stderr.write(`${JSON.stringify({ progress: figures })}\n`);
  };
  say(0, {});
  return {
    update: (done, total) => say(total > 0 ? (done / total) * 100 : 100, { done, total }),
    reach: (percent) => say(Math.min(100, percent), {}),
    watched: true,
    end: () => undefined,
  };
}
