import type { Random } from '../crash/random.ts';
import type { SparseBytes } from '../crash/sparse-bytes.ts';
import type { Field, ImageFields } from './fields.ts';
import { bigEndian, interestingValue } from './interesting.ts';

/** A change of a file's bytes, as a plain value. */
export type Edit =
  | { readonly at: number; readonly hex: string; readonly what: string }
  | { readonly resize: number }
  | { readonly copy: number; readonly to: number; readonly length: number };

export function applyEdit(content: SparseBytes, edit: Edit): void {
  if ('resize' in edit) content.resize(edit.resize);
  else if ('copy' in edit) {
    const bytes = new Uint8Array(edit.length);
    content.read(edit.copy, bytes);
    content.write(edit.to, bytes);
  } else content.write(edit.at, Buffer.from(edit.hex, 'hex'));
}

/** One to four changes, most of them in fields and tables. */
export function drawEdits(random: Random, map: ImageFields, image: SparseBytes): Edit[] {
  const weights = map.fields.map((field) => [field.weight, field] as const);
  const edits: Edit[] = [];
  for (let left = random.pick([1, 1, 1, 2, 2, 3, 4]); left > 0; left -= 1) {
    const field = random.weighted(weights);
    edits.push(
      random.weighted<() => Edit>([
        [60, () => setEntry(random, map, field)],
        [15, () => flip(random, image, placeOf(field, random.below(field.count)), field.width, field.name)],
        [8, () => swap(random, image, field)],
        [4, () => flip(random, image, 0, image.size, 'anywhere')],
        [5, () => ({ resize: random.below(image.size + 1) })],
        [2, () => ({ resize: image.size + random.pick([1, 511, 512, 2 ** 20, 2 ** 33, 2 ** 45]) })],
        [6, () => splice(random, map, image)],
      ])(),
    );
  }
  return edits;
}

function setEntry(random: Random, map: ImageFields, field: Field): Edit {
  // The first entries are those in use.
  const index = random.chance(0.7) ? random.below(Math.min(field.count, 8)) : random.below(field.count);
  const value = interestingValue(random, field.width, map.near);
  const bytes = bigEndian(value, field.width);
  const hex = Buffer.from(map.bigEndian ? bytes : bytes.reverse()).toString('hex');
  return { at: placeOf(field, index), hex, what: `${field.name}[${index}]` };
}

function flip(random: Random, image: SparseBytes, from: number, length: number, what: string): Edit {
  const at = from + random.below(length);
  const byte = new Uint8Array(1);
  image.read(at, byte);
  byte[0]! ^= 1 << random.below(8);
  return { at, hex: Buffer.from(byte).toString('hex'), what };
}

function swap(random: Random, image: SparseBytes, field: Field): Edit {
  const [one, two] = [random.below(field.count), random.below(field.count)].sort((a, b) => a - b) as [
    number,
    number,
  ];
  const from = placeOf(field, one);
  const bytes = new Uint8Array(placeOf(field, two) + field.width - from);
  image.read(from, bytes);
  const last = bytes.slice(bytes.length - field.width);
  bytes.copyWithin(bytes.length - field.width, 0, field.width);
  bytes.set(last);
  return { at: from, hex: Buffer.from(bytes).toString('hex'), what: `${field.name} swapped` };
}

function placeOf({ at, width, stride = width }: Field, index: number): number {
  return at + index * stride;
}

function splice(random: Random, map: ImageFields, image: SparseBytes): Edit {
  const unit = random.pick([8, 64, 512, map.grain]);
  const place = () => random.below(Math.ceil(image.size / unit)) * unit;
  return { copy: place(), to: place(), length: Math.min(4096, unit) };
}
