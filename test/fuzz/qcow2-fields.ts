import type { SparseBytes } from '../crash/sparse-bytes.ts';
import type { Field, ImageFields } from './fields.ts';

/**
 * `[name, offset, width]`, and a weight where it is not that of the others: tables that are said to be long take as
 * long as hundreds of other inputs.
 */
const headerFields: readonly (readonly [string, number, number, number?])[] = [
  ['magic', 0, 4],
  ['version', 4, 4],
  ['backing_file_offset', 8, 8],
  ['backing_file_size', 16, 4],
  ['cluster_bits', 20, 4],
  ['size', 24, 8],
  ['crypt_method', 32, 4],
  ['l1_size', 36, 4, 0.5],
  ['l1_table_offset', 40, 8],
  ['refcount_table_offset', 48, 8],
  ['refcount_table_clusters', 56, 4],
  ['nb_snapshots', 60, 4, 0.1],
  ['snapshots_offset', 64, 8],
  ['incompatible_features', 72, 8],
  ['compatible_features', 80, 8],
  ['autoclear_features', 88, 8],
  ['refcount_order', 96, 4],
  ['header_length', 100, 4],
  ['compression_type', 104, 1],
];

/** Finds the fields and tables of a sound qcow2 image: where a lie would hurt. */
export function qcow2Fields(image: SparseBytes): ImageFields {
  const bytes = image.toBytes();
  const view = new DataView(bytes.buffer);
  const u64 = (at: number) => Number(view.getBigUint64(at));
  const offsetAt = (at: number) => Number(view.getBigUint64(at) & 0x00ff_ffff_ffff_fe00n);
  const clusterSize = 2 ** view.getUint32(20);
  const fields: Field[] = [];
  const near = new Set<bigint>();
  const add = (
    name: string,
    at: number,
    width: number,
    count: number,
    weight: number,
    stride: number = width,
  ) => {
    if (at + stride * count <= bytes.length && count > 0)
      fields.push({ name, at, width, count, stride, weight: weight * 10 });
  };
  const extendedL2 = view.getUint32(4) === 3 && (view.getUint32(76) & 16) !== 0;
  const l2EntryBytes = extendedL2 ? 16 : 8;

  for (const [name, at, width, weight = 2] of headerFields) add(name, at, width, 1, weight);
  let at = view.getUint32(4) === 3 ? view.getUint32(100) : 72;
  for (let i = 0; i < 16 && at + 8 <= clusterSize; i += 1) {
    const length = view.getUint32(at + 4);
    add('extension', at, 4, 2, 2);
    if (view.getUint32(at) === 0x23852875) bitmaps(at + 8);
    else add('extension data', at + 8, 1, length, 1);
    if (view.getUint32(at) === 0) break;
    at += 8 + Math.ceil(length / 8) * 8;
  }

  tables('L1', u64(40), view.getUint32(36));
  for (let i = 0, block = u64(48); i < view.getUint32(56) * (clusterSize / 8); i += 1) {
    const offset = u64(block + i * 8);
    if (offset === 0) continue;
    near.add(BigInt(offset));
    add('refcount block', offset, 2, clusterSize / 2, 4);
  }
  add('refcount table', u64(48), 8, (view.getUint32(56) * clusterSize) / 8, 8);
  for (let i = 0, entry = u64(64); i < view.getUint32(60); i += 1) {
    add('snapshot entry', entry, 4, 10, 6);
    tables('snapshot L1', u64(entry), view.getUint32(entry + 8));
    const extra = view.getUint32(entry + 36);
    add('snapshot extra data', entry + 40, 8, Math.floor(extra / 8), 3);
    const used = 40 + extra + view.getUint16(entry + 12) + view.getUint16(entry + 14);
    entry += Math.ceil(used / 8) * 8;
  }
  for (const value of [u64(24), u64(40), u64(48), u64(64), bytes.length, clusterSize, 0])
    near.add(BigInt(value));
  for (const value of [bytes.length - clusterSize, bytes.length + clusterSize]) near.add(BigInt(value));
  // The same with what the upper bits of an entry may say: in use, packed, both.
  const flagged = [...near].flatMap((value) => [
    value | (1n << 63n),
    value | (1n << 62n),
    value | (3n << 62n),
    value | 1n,
  ]);
  return { fields, near: [...near, ...near, ...flagged], grain: clusterSize, bigEndian: true };

  function tables(name: string, l1: number, count: number): void {
    add(`${name} table`, l1, 8, count, 10);
    for (let i = 0; i < count && l1 + i * 8 + 8 <= bytes.length; i += 1) {
      const l2 = offsetAt(l1 + i * 8);
      if (l2 === 0) continue;
      near.add(BigInt(l2));
      const entries = clusterSize / l2EntryBytes;
      add(`${name}: L2 table`, l2, 8, entries, 10, l2EntryBytes);
      if (extendedL2) {
        add(`${name}: subclusters that read as zeroes`, l2 + 8, 4, entries, 4, l2EntryBytes);
        add(`${name}: subclusters that are allocated`, l2 + 12, 4, entries, 4, l2EntryBytes);
      }
      for (let j = 0; j < 4; j += 1) near.add(BigInt(offsetAt(l2 + j * l2EntryBytes)));
    }
  }

  function bitmaps(extension: number): void {
    add('bitmaps extension', extension, 8, 3, 4);
    const count = view.getUint32(extension);
    let entry = u64(extension + 16);
    for (let i = 0; i < count && entry + 24 <= bytes.length; i += 1) {
      add('bitmap directory entry', entry, 4, 6, 6);
      const table = u64(entry);
      add('bitmap table', table, 8, view.getUint32(entry + 8), 6);
      const used = 24 + view.getUint16(entry + 18) + view.getUint32(entry + 20);
      entry += Math.ceil(used / 8) * 8;
    }
  }
}
