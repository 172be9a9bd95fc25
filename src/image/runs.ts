import type { Layer, Run } from '../formats/driver.ts';
import { sameTold } from '../storage/store.ts';
import { ChainCursor } from './chain-cursor.ts';
import type { ChainRun } from './image.ts';

/** Runs a page. */
const pageRuns = 1024;

type Mutable<T> = T extends unknown ? { -readonly [Key in keyof T]: T[Key] } : never;
type OpenRun = Mutable<ChainRun>;

/** Gathers merged runs of a chain, a page at a time. */
export class RunCollector {
  readonly #cursor: ChainCursor;
  readonly #to: number;
  #at: number;
  /** The run that the next one may still lengthen. */
  #open: OpenRun | undefined;

  constructor(layers: readonly Layer[], from: number, to: number) {
    this.#cursor = new ChainCursor(layers, 'map');
    this.#at = from;
    this.#to = to;
  }

  /** Where the next page begins to look. */
  get position(): number {
    return this.#at;
  }

  get done(): boolean {
    return this.#at >= this.#to && this.#open === undefined;
  }

  /** The next page: runs that nothing can lengthen any more. `check` is called before each wait. */
  async page(check: () => void): Promise<ChainRun[]> {
    const page: ChainRun[] = [];
    // The map may have changed since the last page.
    this.#cursor.restart();
    while (this.#at < this.#to && page.length < pageRuns) {
      const run = this.#cursor.next(this.#at, this.#to);
      if (!run) {
        check();
        await this.#cursor.faulting.fault(this.#at);
        continue;
      }
      const { depth } = this.#cursor;
      if (this.#open && continues(this.#open, run, depth)) this.#open.length += run.length;
      else {
        if (this.#open) page.push(this.#open);
        this.#open = openRun(run, depth);
      }
      this.#at += run.length;
    }
    if (this.#at >= this.#to && this.#open && page.length < pageRuns) {
      page.push(this.#open);
      this.#open = undefined;
    }
    return page;
  }
}

/** A copy with the fields that its kind has: a format's run may be an object of any class. */
function openRun(run: Run, depth: number): OpenRun {
  const { offset, length } = run;
  switch (run.kind) {
    case 'data':
      return {
        kind: 'data',
        offset,
        length,
        source: run.source,
        at: run.at,
        mayBeSparse: run.mayBeSparse,
        ...(run.told && { told: run.told }),
        depth,
      };
    case 'packed':
      return { kind: 'packed', offset, length, unpack: () => run.unpack(), skip: run.skip, depth };
    case 'zero':
      return run.source
        ? { kind: 'zero', offset, length, source: run.source, at: run.at, depth }
        : { kind: 'zero', offset, length, depth };
    case 'hole':
      return { kind: 'hole', offset, length, depth };
  }
}

function continues(open: OpenRun, next: Run, depth: number): boolean {
  if (open.kind !== next.kind || open.depth !== depth) return false;
  if (open.kind === 'data' && next.kind === 'data') {
    const contiguous = open.source === next.source && open.at + open.length === next.at;
    return contiguous && open.mayBeSparse === next.mayBeSparse && sameTold(open.told, next.told);
  }
  if (open.kind === 'zero' && next.kind === 'zero') {
    if (open.source !== next.source) return false;
    return open.source === undefined || open.at! + open.length === next.at;
  }
  return open.kind === 'hole';
}
