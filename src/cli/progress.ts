import type { CliContext } from './context.ts';
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
}

/**
 * qemu-img's progress: with `-p` on stdout, each full percent, in place; without it on stderr when SIGUSR1
 * arrives. Figures are single-precision floats with two digits, as qemu-img computes them. `skip`: percent that
 * must have been added before the next figure is shown.
 */
export function qemuProgress(context: CliContext, shown: boolean, skip = 1): PercentProgress {
  let percent = 0;
  let lastPrinted = 0;
  const print = (): void => {
    const figure = `    (${fixed2(percent)}/100%)`;
    if (shown) context.stdout.write(`${figure}\r`);
    else context.stderr.write(`${figure}\n`);
  };
  const stop = shown ? () => undefined : context.onProgressSignal(print);
  if (shown) print();
  const reach = (wanted: number): void => {
    percent = Math.min(100, Math.fround(wanted));
    if (!shown) return;
    if (percent > lastPrinted + skip || percent < lastPrinted || percent === 100 || percent === 0) {
      lastPrinted = percent;
      print();
    }
  };
  return {
    update: (done, total) => reach(total > 0 ? (done / total) * 100 : 100),
    reach,
    end() {
      stop();
      if (shown) context.stdout.write('\n');
    },
  };
}
