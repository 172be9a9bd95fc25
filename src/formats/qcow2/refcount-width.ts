/** Reads and writes refcounts of one width in a refcount block. Counts past 2^53 come out rounded. */
export interface RefcountAccess {
  readonly bits: number;
  /** The largest count that the width holds; for 64 bits 2^53 - 1. One that is larger in a file stays as it is. */
  readonly max: number;
  get(block: DataView, index: number): number;
  set(block: DataView, index: number, value: number): void;
  /** Sets `count` refcounts from `index` on. */
  fill(block: DataView, index: number, count: number, value: number): void;
  /** The first index in [from, to) whose refcount is zero, or `to`. */
  findFree(block: DataView, from: number, to: number): number;
  /** The first index in [from, to) whose refcount is not zero, or `to`. */
  findUsed(block: DataView, from: number, to: number): number;
}

const accesses = [0, 1, 2, 3, 4, 5, 6].map(makeAccess);

/** The access for a refcount_order (section "Reference count block"): 0 (1 bit) to 6 (64 bits). */
export function refcountAccess(order: number): RefcountAccess {
  return accesses[order];
}

function makeAccess(order: number): RefcountAccess {
  const bits = 2 ** order;
  const max = Math.min(2 ** bits - 1, Number.MAX_SAFE_INTEGER);
  const { get, set } = order < 3 ? packedAccess(bits) : wideAccess(bits);
  return {
    bits,
    max,
    get,
    set,
    fill(block, index, count, value) {
      for (let at = index; at < index + count; at++) set(block, at, value);
    },
    findFree(block, from, to) {
      let at = from;
      while (at < to && get(block, at) !== 0) at++;
      return at;
    },
    findUsed(block, from, to) {
      let at = from;
      while (at < to && get(block, at) === 0) at++;
      return at;
    },
  };
}

type GetSet = Pick<RefcountAccess, 'get' | 'set'>;

/** Widths below a byte: the lowest bits of a byte belong to the lowest index. */
function packedAccess(bits: number): GetSet {
  const perByte = 8 / bits;
  const mask = 2 ** bits - 1;
  return {
    get(block, index) {
      return (block.getUint8(Math.floor(index / perByte)) >> ((index % perByte) * bits)) & mask;
    },
    set(block, index, value) {
      const at = Math.floor(index / perByte);
      const shift = (index % perByte) * bits;
      block.setUint8(at, (block.getUint8(at) & ~(mask << shift)) | (value << shift));
    },
  };
}

function wideAccess(bits: number): GetSet {
  switch (bits) {
    case 8:
      return {
        get: (block, index) => block.getUint8(index),
        set: (block, index, value) => block.setUint8(index, value),
      };
    case 16:
      return {
        get: (block, index) => block.getUint16(index * 2),
        set: (block, index, value) => block.setUint16(index * 2, value),
      };
    case 32:
      return {
        get: (block, index) => block.getUint32(index * 4),
        set: (block, index, value) => block.setUint32(index * 4, value),
      };
    default:
      return {
        get: (block, index) => block.getUint32(index * 8) * 0x1_0000_0000 + block.getUint32(index * 8 + 4),
        set(block, index, value) {
          block.setUint32(index * 8, Math.floor(value / 0x1_0000_0000));
          block.setUint32(index * 8 + 4, value % 0x1_0000_0000);
        },
      };
  }
}
