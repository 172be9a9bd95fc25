import type { Random } from './random.ts';
import { type Change, type RecordingDisk, roundUp, sectorSize, type Tick } from './recording-store.ts';
import type { SparseBytes } from './sparse-bytes.ts';

/** How much of a change reached the disk. Sector numbers count from the change's first. */
export type Part =
  | { readonly kind: 'whole' }
  /** Ranges [from, to) of its sectors. */
  | { readonly kind: 'sectors'; readonly ranges: readonly (readonly [number, number])[] }
  /** The file's size alone: of a resize, any size on the way; of a write, its growth without its bytes. */
  | { readonly kind: 'size'; readonly size: number };

/** One state that the disk may hold: all that was durable when the power went, and this, in this order. */
export interface CutRecipe {
  readonly tick: Tick;
  readonly applied: readonly { readonly change: number; readonly part: Part }[];
}

export interface CutState {
  readonly recipe: CutRecipe;
  /** One a file of the disk. Valid until the next state is asked for; may be written to. */
  readonly files: readonly SparseBytes[];
  /** Equal for states that are the same bytes in the same span between two flushes. */
  readonly key: string;
}

/**
 * What a disk may hold when the power goes at some moment: everything up to the last completed flush, then any
 * subset and any order of the changes since, each torn between sectors.
 */
export class PowerCut {
  private base: SparseBytes[];
  private pending: Change[] = [];
  private nextChange = 0;
  private readonly ends: Tick[];

  constructor(private readonly disk: RecordingDisk) {
    this.base = disk.files.map((file) => file.initial.fork());
    const done = disk.flushes.map((flush) => flush.done).filter((tick) => tick <= disk.now);
    this.ends = [...done.sort((a, b) => a - b), disk.now + 1];
  }

  /**
   * About `count` states, drawn evenly over the changes of the record and ordered by time. A state that was
   * given already is not given again, so a short record gives fewer.
   */
  *sample(random: Random, count: number): Generator<CutState> {
    this.rewind();
    const spans = this.ends.map((end, i) => ({ start: i === 0 ? 0 : this.ends[i - 1]!, end }));
    const weights: (readonly [number, number])[] = spans.map(({ start, end }, i) => {
      const issued = this.disk.changes.filter(
        (change) => change.issued > start && change.issued < end,
      ).length;
      return [issued * 4 + 1, i];
    });
    const draws = new Array<number>(spans.length).fill(0);
    for (let i = 0; i < count; i += 1) draws[random.weighted(weights)]! += 1;
    for (const [i, { start, end }] of spans.entries()) {
      const seen = new Set<string>();
      // A few more draws than asked for, since many fall on a state that was seen.
      for (let left = draws[i]! * 2, given = 0; left > 0 && given < draws[i]!; left -= 1) {
        const tick = random.between(start, end - 1);
        const state = this.make(this.draw(random, tick));
        const key = `${i}/${state.key}`;
        if (seen.has(key)) continue;
        seen.add(key);
        given += 1;
        yield { ...state, key };
      }
      this.advance(end);
    }
  }

  /** The one state of a recipe. */
  replay(recipe: CutRecipe): CutState {
    this.rewind();
    for (const end of this.ends) if (end <= recipe.tick) this.advance(end);
    return this.make(recipe);
  }

  private rewind(): void {
    this.base = this.disk.files.map((file) => file.initial.fork());
    this.pending = [];
    this.nextChange = 0;
  }

  /** Makes durable what the flushes that are done by `tick` cover. Every later state stands on it. */
  private advance(tick: Tick): void {
    while (this.nextChange < this.disk.changes.length && this.disk.changes[this.nextChange]!.issued < tick) {
      this.pending.push(this.disk.changes[this.nextChange]!);
      this.nextChange += 1;
    }
    const covered = new Array<Tick>(this.disk.files.length).fill(-1);
    for (const flush of this.disk.flushes) {
      if (flush.done <= tick) covered[flush.file] = Math.max(covered[flush.file]!, flush.started);
    }
    this.pending = this.pending.filter((change) => {
      if (change.done >= covered[change.file]!) return true;
      applyPart(this.base[change.file]!, change, { kind: 'whole' });
      return false;
    });
  }

  private make(recipe: CutRecipe): CutState {
    const files = this.base.map((content) => content.fork());
    for (const { change: index, part } of recipe.applied) {
      const change = this.disk.changes[index]!;
      applyPart(files[change.file]!, change, part);
    }
    return { recipe, files, key: files.map((content) => content.fingerprint()).join('/') };
  }

  private draw(random: Random, tick: Tick): CutRecipe {
    const pending = [...this.pending];
    for (let i = this.nextChange; i < this.disk.changes.length; i += 1) {
      const change = this.disk.changes[i]!;
      if (change.issued > tick) break;
      pending.push(change);
    }
    const whole = pending.map((change) => ({ change: change.index, part: { kind: 'whole' } as Part }));
    if (pending.length === 0) return { tick, applied: [] };
    const one = random.below(pending.length);
    const shape = random.weighted([
      [2, 'all'],
      [1, 'none'],
      [3, 'all but one'],
      [3, 'only one'],
      [1, 'from one on'],
      [4, 'some'],
      [3, 'last torn'],
      [4, 'one torn'],
      [3, 'all torn'],
      [4, 'any order'],
      [1, 'grown'],
    ] as const);
    const tornOne = (at: number) => ({ change: pending[at]!.index, part: tear(random, pending[at]!) });
    const some = (chance: number) => whole.filter(() => random.chance(chance));
    switch (shape) {
      case 'all':
        return { tick, applied: whole };
      case 'none':
        return { tick, applied: [] };
      case 'all but one':
        return { tick, applied: whole.filter((_, i) => i !== one) };
      case 'only one':
        return { tick, applied: [whole[one]!] };
      case 'from one on':
        return { tick, applied: whole.slice(one) };
      case 'some':
        return { tick, applied: some(random.pick([0.15, 0.5, 0.85])) };
      case 'last torn':
        return { tick, applied: [...whole.slice(0, -1), tornOne(pending.length - 1)] };
      case 'one torn': {
        const rest = random.pick([0, 0.5, 1]);
        return {
          tick,
          applied: whole.flatMap((each, i) => (i === one ? [tornOne(i)] : random.chance(rest) ? [each] : [])),
        };
      }
      case 'all torn':
        return { tick, applied: pending.map((_, i) => tornOne(i)) };
      case 'any order': {
        const chosen = some(random.pick([0.5, 1])).map((each) =>
          random.chance(0.3) ? { ...each, part: tear(random, this.disk.changes[each.change]!) } : each,
        );
        return { tick, applied: random.shuffle(chosen) };
      }
      case 'grown': {
        const grown = pending[one]!;
        return { tick, applied: [...some(0.5), { change: grown.index, part: growth(grown) }] };
      }
    }
  }
}

/** The byte range of a write or zero. */
function rangeOf(change: Change): { at: number; length: number } {
  if (change.kind === 'write') return { at: change.at, length: change.bytes.length };
  if (change.kind === 'zero') return { at: change.at, length: change.length };
  return { at: change.size, length: 0 };
}

function growth(change: Change): Part {
  const { at, length } = rangeOf(change);
  return { kind: 'size', size: Math.max(change.sizeBefore, at + length) };
}

/** Some of the change's sectors; of a resize, some size on the way. */
function tear(random: Random, change: Change): Part {
  if (change.kind === 'resize') {
    const low = Math.min(change.size, change.sizeBefore);
    const sectors = Math.floor(Math.abs(change.size - change.sizeBefore) / sectorSize);
    return { kind: 'size', size: low + random.between(0, sectors) * sectorSize };
  }
  const count = Math.ceil(rangeOf(change).length / sectorSize);
  if (count === 1) return random.chance(0.5) ? { kind: 'whole' } : { kind: 'sectors', ranges: [] };
  const cut = random.between(1, count - 1);
  const at = random.below(count);
  switch (random.below(6)) {
    case 0:
      return { kind: 'sectors', ranges: [[0, cut]] };
    case 1:
      return { kind: 'sectors', ranges: [[cut, count]] };
    case 2:
      return { kind: 'sectors', ranges: [[at, at + 1]] };
    case 3:
      return {
        kind: 'sectors',
        ranges: [
          [0, at],
          [at + 1, count],
        ],
      };
    default: {
      // Up to 64 pieces, each there or not: for a short write that is sector by sector.
      const piece = Math.ceil(count / 64);
      const chance = random.pick([0.2, 0.5, 0.8]);
      const ranges: [number, number][] = [];
      for (let from = 0; from < count; from += piece) {
        if (random.chance(chance)) ranges.push([from, Math.min(from + piece, count)]);
      }
      return { kind: 'sectors', ranges };
    }
  }
}

/** Lets a part of a change happen to a file. */
export function applyPart(content: SparseBytes, change: Change, part: Part): void {
  if (part.kind === 'size') {
    if (change.kind === 'resize' || part.size > content.size) content.resize(part.size);
    return;
  }
  if (change.kind === 'resize') {
    content.resize(change.size);
    return;
  }
  const { at, length } = rangeOf(change);
  const ranges = part.kind === 'whole' ? [[0, Math.ceil(length / sectorSize)] as const] : part.ranges;
  for (const [from, to] of ranges) {
    const start = from * sectorSize;
    const end = Math.min(to * sectorSize, length);
    if (change.kind === 'write') {
      content.write(at + start, change.bytes.subarray(start, end));
      // At the end of the file a sector was short. Where the file is longer now it is that sector all the same, whole.
      const rest = Math.min(roundUp(at + end), content.size) - (at + end);
      if (rest > 0) content.write(at + end, new Uint8Array(rest));
    } else content.zero(at + start, end - start, change.punch);
  }
}
