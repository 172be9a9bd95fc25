import { type Layer, type Run, unitOf } from '../formats/driver.ts';

type PackedRun = Extract<Run, { readonly kind: 'packed' }>;

interface Unit {
  readonly layer: Layer;
  /** Guest offset of the unit's first byte. */
  readonly start: number;
  readonly bytes: Promise<Uint8Array>;
  readonly size: number;
}

const maxUnits = 16;
const maxBytes = 4 << 20;

/** The units unpacked last, for readers that take a packed cluster in several requests. */
export class UnpackCache {
  /** Oldest first. */
  readonly #units: Unit[] = [];
  #bytes = 0;

  /** Fills `into` from a packed run of `layer`. */
  async read(layer: Layer, run: PackedRun, into: Uint8Array): Promise<void> {
    const start = run.offset - run.skip;
    const index = this.#units.findIndex((unit) => unit.layer === layer && unit.start === start);
    if (index >= 0) {
      const [unit] = this.#units.splice(index, 1);
      this.#units.push(unit);
      copyFrom(await unit.bytes, run.skip, into);
      return;
    }
    if (run.skip === 0 && into.length === unitOf(layer)) {
      // Nobody will ask for the rest of it.
      const unit = await run.unpack(into);
      if (unit !== into) copyFrom(unit, 0, into);
      return;
    }
    const bytes = run.unpack();
    this.#add({ layer, start, bytes, size: unitOf(layer) });
    try {
      copyFrom(await bytes, run.skip, into);
    } catch (error) {
      this.#forget((unit) => unit.bytes === bytes);
      throw error;
    }
  }

  /** Guest bytes [from, to) of `layer` have changed. */
  invalidate(layer: Layer, from: number, to: number): void {
    if (this.#units.length === 0) return;
    this.#forget((unit) => unit.layer === layer && unit.start < to && unit.start + unit.size > from);
  }

  #add(unit: Unit): void {
    this.#units.push(unit);
    this.#bytes += unit.size;
    while (this.#units.length > 1 && (this.#units.length > maxUnits || this.#bytes > maxBytes)) {
      this.#bytes -= this.#units.shift()!.size;
    }
  }

  #forget(condition: (unit: Unit) => boolean): void {
    for (let index = this.#units.length - 1; index >= 0; index--) {
      if (!condition(this.#units[index])) continue;
      this.#bytes -= this.#units[index].size;
      this.#units.splice(index, 1);
    }
  }
}

function copyFrom(unit: Uint8Array, skip: number, into: Uint8Array): void {
  const part = unit.subarray(skip, skip + into.length);
  into.set(part);
  // A unit at the image's end may be short; what it lacks reads as zeroes.
  if (part.length < into.length) into.fill(0, part.length);
}
