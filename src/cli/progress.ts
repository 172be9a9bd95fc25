import type { CliContext } from './context.ts';

/** Where long work says how far it is. */
export interface Progress {
  /** Bytes (or units) done of `total`. */
  update(done: number, total: number): void;
  /** Ends the display; `update` is not called any more. */
  end(): void;
}

/**
 * qemu-img's progress: with `-p` on stdout, each full percent, in place; without it on stderr when SIGUSR1
 * arrives. Figures are single-precision floats with two digits, as qemu-img computes them.
 */
export function qemuProgress(context: CliContext, shown: boolean): Progress {
  let percent = 0;
  let lastPrinted = 0;
  const print = (): void => {
    const figure = `    (${percent.toFixed(2)}/100%)`;
    if (shown) context.stdout.write(`${figure}\r`);
    else context.stderr.write(`${figure}\n`);
  };
  const stop = shown ? () => undefined : context.onProgressSignal(print);
  if (shown) print();
  return {
    update(done, total) {
      percent = Math.min(100, Math.fround(total > 0 ? (done / total) * 100 : 100));
      if (!shown) return;
      if (percent > lastPrinted + 1 || percent < lastPrinted || percent === 100) {
        lastPrinted = percent;
        print();
      }
    },
    end() {
      stop();
      if (shown) context.stdout.write('\n');
    },
  };
}
