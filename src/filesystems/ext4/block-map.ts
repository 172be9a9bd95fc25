import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { BlockCache } from '../block-cache.ts';
import { type Inode, InodeFlag } from './inode.ts';
import { rawCrc32c, type Superblock } from './superblock.ts';

/** A stretch of a file: numbers of blocks. */
export interface BlockExtent {
  readonly logical: number;
  /** Undefined: set aside but never written, so that it reads as zeroes. */
  readonly physical?: number;
  readonly count: number;
}

const extentMagic = 0xf30a;
const mostDepth = 5;

/**
 * The blocks of a file in order, by its extents or its indirect blocks. Each block of the map is read once: a map that
 * leads to the same block twice throws `corrupt`, and so all work is bounded by the size of the file system.
 */
export function blockMap(
  superblock: Superblock,
  blocks: BlockCache,
  inode: Inode,
): AsyncGenerator<BlockExtent> {
  const map = new BlockMap(superblock, blocks, inode);
  return (inode.flags & InodeFlag.extents) !== 0 ? map.extents() : map.indirect();
}

class BlockMap {
  readonly #superblock: Superblock;
  readonly #blocks: BlockCache;
  readonly #inode: Inode;
  readonly #seen = new Set<number>();
  /** The next logical block: extents must come in order. */
  #next = 0;

  constructor(superblock: Superblock, blocks: BlockCache, inode: Inode) {
    this.#superblock = superblock;
    this.#blocks = blocks;
    this.#inode = inode;
  }

  async *extents(): AsyncGenerator<BlockExtent> {
    yield* this.#node(this.#inode.block, undefined);
  }

  async *#node(bytes: Uint8Array, expected: number | undefined): AsyncGenerator<BlockExtent> {
    const view = viewOf(bytes);
    const [magic, entries, most, depth] = [0, 2, 4, 6].map((at) => view.getUint16(at, true));
    if (magic !== extentMagic) throw this.#bad('eh_magic', `an extent block says 0x${magic.toString(16)}`);
    if (entries > most || 12 + most * 12 > bytes.length)
      throw this.#bad('eh_entries', `${entries} of ${most} extents`);
    if (depth > mostDepth || (expected !== undefined && depth !== expected)) {
      throw this.#bad('eh_depth', `the depth of its extents is ${depth}`);
    }
    for (let at = 12; at < 12 + entries * 12; at += 12) {
      const logical = view.getUint32(at, true);
      if (logical < this.#next)
        throw this.#bad('ee_block', `its extents are out of order at block ${logical}`);
      if (depth > 0) {
        const child = view.getUint32(at + 4, true) + view.getUint16(at + 8, true) * 2 ** 32;
        yield* this.#node(await this.#mapBlock(child, true), depth - 1);
        continue;
      }
      const length = view.getUint16(at + 4, true);
      const unwritten = length > 32_768;
      const count = unwritten ? length - 32_768 : length;
      if (count === 0) throw this.#bad('ee_len', 'an extent of no blocks');
      const physical = view.getUint32(at + 8, true) + view.getUint16(at + 6, true) * 2 ** 32;
      this.#check(physical, count);
      this.#next = logical + count;
      yield { logical, physical: unwritten ? undefined : physical, count };
    }
  }

  async *indirect(): AsyncGenerator<BlockExtent> {
    const end = Math.ceil(this.#inode.size / this.#superblock.blockSize);
    const view = viewOf(this.#inode.block);
    let pending: { logical: number; physical: number; count: number } | undefined;
    const pointers = this.#pointers(view, end);
    for await (const { logical, physical } of pointers) {
      if (
        pending &&
        pending.logical + pending.count === logical &&
        pending.physical + pending.count === physical
      ) {
        pending.count += 1;
        continue;
      }
      if (pending) yield pending;
      pending = { logical, physical, count: 1 };
    }
    if (pending) yield pending;
  }

  async *#pointers(view: DataView, end: number): AsyncGenerator<{ logical: number; physical: number }> {
    for (let slot = 0; slot < 12 && slot < end; slot++) {
      const physical = view.getUint32(slot * 4, true);
      if (physical === 0) continue;
      this.#check(physical, 1);
      yield { logical: slot, physical };
    }
    const perBlock = this.#superblock.blockSize / 4;
    let logical = 12;
    for (let depth = 1; depth <= 3 && logical < end; depth++) {
      const span = perBlock ** depth;
      const pointer = view.getUint32((11 + depth) * 4, true);
      if (pointer !== 0) yield* this.#level(pointer, depth, logical, end);
      logical += span;
    }
  }

  async *#level(
    block: number,
    depth: number,
    start: number,
    end: number,
  ): AsyncGenerator<{ logical: number; physical: number }> {
    const bytes = await this.#mapBlock(block, false);
    const view = viewOf(bytes);
    const perBlock = bytes.length / 4;
    const span = perBlock ** (depth - 1);
    for (let slot = 0; slot < perBlock; slot++) {
      const logical = start + slot * span;
      if (logical >= end) return;
      const pointer = view.getUint32(slot * 4, true);
      if (pointer === 0) continue;
      if (depth > 1) yield* this.#level(pointer, depth - 1, logical, end);
      else {
        this.#check(pointer, 1);
        yield { logical, physical: pointer };
      }
    }
  }

  async #mapBlock(block: number, hasChecksum: boolean): Promise<Uint8Array> {
    this.#check(block, 1);
    if (this.#seen.has(block)) throw this.#bad('i_block', `its map leads to block ${block} twice`);
    this.#seen.add(block);
    const bytes = await this.#blocks.get(block, 'block map');
    const seed = this.#inode.checksumSeed;
    if (hasChecksum && seed !== undefined) {
      const view = viewOf(bytes);
      const tail = 12 + view.getUint16(4, true) * 12;
      if (tail + 4 > bytes.length) throw this.#bad('eh_max', `${view.getUint16(4, true)} extents in a block`);
      if (rawCrc32c(seed, bytes.subarray(0, tail)) !== view.getUint32(tail, true)) {
        throw this.#bad('eb_checksum', `the checksum of extent block ${block} is wrong`);
      }
    }
    return bytes;
  }

  #check(first: number, count: number): void {
    const { firstDataBlock, blocks } = this.#superblock;
    if (first < firstDataBlock || first === 0 || first + count > blocks) {
      throw this.#bad('i_block', `its map leads to block ${first}, which is none`);
    }
  }

  #bad(field: string, what: string): DiskError {
    return new DiskError('corrupt', `Inode ${this.#inode.id}: ${what}`, { field });
  }
}
