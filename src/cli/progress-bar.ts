import type { CliContext } from './context.ts';
import type { Progress } from './progress.ts';
import { humanSize } from './sizes.ts';

export interface BarOptions {
  readonly label: string;
  /** Bytes are shown with binary prefixes, other units as plain figures with this name after them. */
  readonly unit?: 'bytes' | string;
  /** Milliseconds between two redraws; default 100. */
  readonly every?: number;
}

/**
 * A bar with rate and remaining time for a terminal; elsewhere one plain line at each tenth and one at the end.
 * Drawn on stderr, so that stdout stays for results. Honours NO_COLOR and narrow terminals.
 */
export function progressBar(context: CliContext, options: BarOptions): Progress {
  return context.stderr.isTTY ? new TerminalBar(context, options) : new PlainLines(context, options);
}

/** Figures that both displays share. */
abstract class Meter implements Progress {
  protected readonly context: CliContext;
  protected readonly options: BarOptions;
  protected done = 0;
  protected total = 0;
  private readonly began: number;
  private ended = false;

  constructor(context: CliContext, options: BarOptions) {
    this.context = context;
    this.options = options;
    this.began = context.now();
  }

  update(done: number, total: number): void {
    if (this.ended) return;
    this.done = done;
    this.total = total;
    this.changed();
  }

  end(): void {
    if (this.ended) return;
    this.ended = true;
    this.finish();
  }

  protected abstract changed(): void;
  protected abstract finish(): void;

  protected get share(): number {
    return this.total > 0 ? Math.min(1, this.done / this.total) : 0;
  }

  protected get seconds(): number {
    return (this.context.now() - this.began) / 1000;
  }

  protected amount(value: number): string {
    const { unit = 'bytes' } = this.options;
    return unit === 'bytes' ? humanSize(value) : `${Math.round(value)} ${unit}`;
  }

  /** `1.2 GiB/s`, or nothing while too little is known. */
  protected get rate(): string {
    return this.seconds > 0.2 && this.done > 0 ? `${this.amount(this.done / this.seconds)}/s` : '';
  }

  /** Remaining time, or nothing while too little is known. */
  protected get remaining(): string {
    if (this.seconds < 0.5 || this.done === 0 || this.done >= this.total) return '';
    return `${duration((this.seconds / this.done) * (this.total - this.done))} left`;
  }
}

class TerminalBar extends Meter {
  private drawnAt = Number.NEGATIVE_INFINITY;

  protected changed(): void {
    const now = this.context.now();
    if (now - this.drawnAt < (this.options.every ?? 100)) return;
    this.drawnAt = now;
    this.context.stderr.write(`\r${this.line(this.remaining)}\x1b[K`);
  }

  protected finish(): void {
    this.context.stderr.write(`\r${this.line(`in ${duration(this.seconds)}`)}\x1b[K\n`);
  }

  private line(time: string): string {
    const percent = `${Math.floor(this.share * 100)}%`.padStart(4);
    const tail = [percent, this.amount(this.done), this.rate, time].filter((part) => part !== '').join('  ');
    const room = this.context.stderr.columns - this.options.label.length - tail.length - 5;
    if (room < 5)
      return `${this.options.label} ${tail}`.slice(0, Math.max(1, this.context.stderr.columns - 1));
    const width = Math.min(40, room);
    const filled = Math.round(this.share * width);
    return `${this.options.label} ${this.colour('█'.repeat(filled))}${'░'.repeat(width - filled)} ${tail}`;
  }

  private colour(text: string): string {
    return this.context.env.NO_COLOR ? text : `\x1b[32m${text}\x1b[39m`;
  }
}

class PlainLines extends Meter {
  private tenths = 0;

  protected changed(): void {
    const tenths = Math.floor(this.share * 10);
    if (tenths <= this.tenths || tenths >= 10) return;
    this.tenths = tenths;
    const parts = [this.amount(this.done), this.rate, this.remaining].filter((part) => part !== '');
    this.context.stderr.write(`${this.options.label}: ${tenths * 10}% (${parts.join(', ')})\n`);
  }

  protected finish(): void {
    const parts = [this.amount(this.done), `in ${duration(this.seconds)}`, this.rate];
    this.context.stderr.write(`${this.options.label}: ${parts.filter((part) => part !== '').join(', ')}\n`);
  }
}

/** `0.4 s`, `12 s`, `3 min 05 s`, `1 h 02 min`. */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}
