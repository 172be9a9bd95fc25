import type { SparseBytes } from '../crash/sparse-bytes.ts';

/** Numbers of one width at equal distances: a header field, or a table. */
export interface Field {
  readonly name: string;
  readonly at: number;
  /** Bytes. */
  readonly width: number;
  readonly count: number;
  /** Bytes from one to the next; default `width`. */
  readonly stride?: number;
  /** Against the others, when one is picked. */
  readonly weight: number;
}

/** Where a lie would hurt in an image. */
export interface ImageFields {
  readonly fields: readonly Field[];
  /** Offsets and sizes that mean something in this file. */
  readonly near: readonly bigint[];
  /** Bytes of what the file is made of. */
  readonly grain: number;
  readonly bigEndian: boolean;
}

/** Fields named by hand, `[name, offset, width, count]`, and what every file has. */
export function fieldsAt(
  image: SparseBytes,
  grain: number,
  bigEndian: boolean,
  list: readonly (readonly [name: string, at: number, width: number, count?: number])[],
): ImageFields {
  const fields = list
    .filter(([, at, width, count = 1]) => at + width * count <= image.size)
    .map(([name, at, width, count = 1]) => ({ name, at, width, count, weight: count > 1 ? 8 : 2 }));
  const near = [0, 1, grain, image.size, image.size - grain, image.size + grain, image.size / 512];
  return { fields, near: near.map((value) => BigInt(Math.max(0, Math.floor(value)))), grain, bigEndian };
}
