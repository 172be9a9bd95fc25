import { sectorSize, type Tick } from './recording-store.ts';

interface Version {
  readonly issued: Tick;
  /** Infinity: the operation failed or is still under way, so nothing is promised of it. */
  done: Tick;
  readonly bytes: Uint8Array;
}

/** One guest operation under way: `done` when it succeeds. */
export interface Edit {
  done(tick: Tick): void;
}

/** What a guest sector may hold, when it holds something else. */
export interface Mismatch {
  readonly sector: number;
  readonly found: Uint8Array;
  /** Newest last. */
  readonly allowed: readonly Uint8Array[];
}

const zeroSector = new Uint8Array(sectorSize);

/**
 * What a guest wrote and what it was promised, sector by sector: at any tick the values that a sector may hold
 * after a power cut, being the one that was last flushed and every one that was written since.
 */
export class GuestModel {
  /** Versions of a sector in the order they were issued. */
  private readonly history: Version[][] = [];
  private readonly sizes: { readonly issued: Tick; done: Tick; readonly size: number }[];
  private readonly flushes: { readonly started: Tick; done: Tick }[] = [];
  /** The last answer of `durableAt`. */
  private durable: { readonly promised: Tick; readonly bytes: Uint8Array } | undefined;

  /** `initial` is the whole guest content, durable from the start. */
  constructor(initial: Uint8Array) {
    this.sizes = [{ issued: -1, done: -1, size: initial.length }];
    this.note(-1, 0, initial).done(-1);
  }

  /** Guest bytes, by the last operation that succeeded. */
  get size(): number {
    for (let i = this.sizes.length - 1; ; i -= 1)
      if (this.sizes[i]!.done !== Number.POSITIVE_INFINITY) return this.sizes[i]!.size;
  }

  /** The content by the last operations, those that failed included. */
  current(): Uint8Array {
    const bytes = new Uint8Array(this.size);
    for (let at = 0; at < bytes.length; at += sectorSize) {
      const versions = this.history[at / sectorSize];
      const last = versions?.[versions.length - 1]?.bytes ?? zeroSector;
      bytes.set(last.subarray(0, Math.min(sectorSize, bytes.length - at)), at);
    }
    return bytes;
  }

  /** Begins a change of [at, at + bytes.length) to `bytes`. */
  write(tick: Tick, at: number, bytes: Uint8Array): Edit {
    const start = at - (at % sectorSize);
    const end = Math.ceil((at + bytes.length) / sectorSize) * sectorSize;
    const whole = new Uint8Array(end - start);
    // Only the two ends keep something of what was there.
    for (const sector of new Set([start, end - sectorSize])) {
      const versions = this.history[sector / sectorSize];
      const last = versions?.[versions.length - 1]?.bytes;
      if (last !== undefined) whole.set(last, sector - start);
    }
    whole.set(bytes, at - start);
    return this.note(tick, start, whole);
  }

  /** Begins a change of the size; bytes that come new read as zeroes unless `write` says otherwise. */
  resize(tick: Tick, size: number): Edit {
    const before = this.size;
    const entry = { issued: tick, done: Number.POSITIVE_INFINITY, size };
    this.sizes.push(entry);
    const first = Math.floor(Math.min(size, before) / sectorSize) * sectorSize;
    const changed = new Uint8Array(Math.ceil(Math.max(size, before) / sectorSize) * sectorSize - first);
    if (first < Math.min(size, before))
      changed.set(this.sectorNow(first).subarray(0, Math.min(size, before) - first));
    const edit = this.note(tick, first, changed);
    return {
      done: (at) => {
        entry.done = at;
        edit.done(at);
      },
    };
  }

  /** Begins a flush. */
  flush(tick: Tick): Edit {
    const entry = { started: tick, done: Number.POSITIVE_INFINITY };
    this.flushes.push(entry);
    return {
      done: (at) => {
        entry.done = at;
      },
    };
  }

  /** What may be read after a cut at `tick`. */
  at(tick: Tick): Expectation {
    let promised: Tick = -1;
    for (const flush of this.flushes) if (flush.done <= tick) promised = Math.max(promised, flush.started);
    return this.between(promised, tick);
  }

  /**
   * What may be read at `tick` when all that was done by `promised` is kept, and operations since may have
   * happened, or not, or in part.
   */
  between(promised: Tick, tick: Tick): Expectation {
    if (this.durable?.promised !== promised) this.durable = { promised, bytes: this.durableAt(promised) };
    return new Expectation(
      this.durable.bytes,
      allowed(this.sizes, promised, tick).map(({ size }) => size),
      (sector) => {
        const versions = this.history[sector];
        return versions === undefined
          ? [zeroSector]
          : allowed(versions, promised, tick).map(({ bytes }) => bytes);
      },
    );
  }

  private durableAt(promised: Tick): Uint8Array {
    const bytes = new Uint8Array(this.history.length * sectorSize);
    for (const [sector, versions] of this.history.entries()) {
      if (versions !== undefined)
        bytes.set(versions[firstAllowed(versions, promised)]!.bytes, sector * sectorSize);
    }
    return bytes;
  }

  /** `bytes` are whole sectors, and are kept. */
  private note(tick: Tick, at: number, bytes: Uint8Array): Edit {
    const made: Version[] = [];
    for (let offset = 0; offset < bytes.length; offset += sectorSize) {
      const sector = (at + offset) / sectorSize;
      let piece = bytes.subarray(offset, offset + sectorSize);
      if (piece.length < sectorSize) {
        const padded = new Uint8Array(sectorSize);
        padded.set(piece);
        piece = padded;
      }
      const version = { issued: tick, done: Number.POSITIVE_INFINITY, bytes: piece };
      let versions = this.history[sector];
      if (versions === undefined) {
        // Before it was there it read as zeroes (past the end, or never written).
        versions = [{ issued: -1, done: -1, bytes: zeroSector }];
        this.history[sector] = versions;
      }
      versions.push(version);
      made.push(version);
    }
    return {
      done: (tickDone) => {
        for (const version of made) version.done = tickDone;
      },
    };
  }

  private sectorNow(at: number): Uint8Array {
    const versions = this.history[at / sectorSize];
    return versions?.[versions.length - 1]?.bytes ?? zeroSector;
  }
}

/** The newest entry that a flush which began at `promised` covers. */
function firstAllowed(entries: readonly { readonly done: Tick }[], promised: Tick): number {
  for (let i = entries.length - 1; i > 0; i -= 1) if (entries[i]!.done <= promised) return i;
  return 0;
}

function allowed<T extends { readonly issued: Tick; readonly done: Tick }>(
  entries: readonly T[],
  promised: Tick,
  tick: Tick,
): T[] {
  return entries.slice(firstAllowed(entries, promised)).filter((entry) => entry.issued <= tick);
}

/** The sizes and values that are allowed at one moment. */
export class Expectation {
  constructor(
    /** The content that was last flushed: always allowed. */
    private readonly durable: Uint8Array,
    readonly sizes: readonly number[],
    /** Values that a sector may hold, the one last flushed first. */
    readonly valuesOf: (sector: number) => readonly Uint8Array[],
  ) {}

  /** The first sectors (at most `limit`) of a content whose value is none of those allowed. */
  mismatches(content: Uint8Array, limit = 4): Mismatch[] {
    const found: Mismatch[] = [];
    const chunk = 8 * sectorSize;
    for (let start = 0; start < content.length && found.length < limit; start += chunk) {
      const end = Math.min(start + chunk, content.length);
      if (end <= this.durable.length && sameBytes(content, this.durable, start, end)) continue;
      for (let at = start; at < end; at += sectorSize) {
        const piece = content.subarray(at, Math.min(at + sectorSize, end));
        const values = this.valuesOf(at / sectorSize);
        if (values.some((value) => sameBytes(piece, value, 0, piece.length))) continue;
        found.push({ sector: at / sectorSize, found: piece.slice(), allowed: values });
      }
    }
    return found;
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array, start: number, end: number): boolean {
  return Buffer.compare(a.subarray(start, end), b.subarray(start, end)) === 0;
}
