import { DiskError } from '../../errors.ts';
import { BlockCache } from '../block-cache.ts';
import type { ByteRange, DirectoryEntry, FileExtent, FileNode, FileSystem } from '../file-system.ts';
import type { ByteSource } from '../source.ts';
import { type BlockExtent, blockMap } from './block-map.ts';
import { parseEntries, type RawEntry } from './directory.ts';
import { freeBlocks } from './free-blocks.ts';
import { type GroupDescriptor, readDescriptor } from './groups.ts';
import { type Inode, InodeFlag, parseInode } from './inode.ts';
import { Incompat, readSuperblock, type Superblock } from './superblock.ts';

const rootInode = 2;

/** Bytes of a symbolic link's target, as Linux takes them. */
const mostTarget = 4096;

/** Reads an ext2, ext3 or ext4 file system. Throws `corrupt`, `unsupported`. */
export async function openExt4(source: ByteSource): Promise<FileSystem> {
  return new Ext4(source, await readSuperblock(source));
}

class Ext4 implements FileSystem {
  readonly kind: string;
  readonly uuid: string;
  readonly label: string;
  readonly size: number;
  readonly blockSize: number;
  readonly needsRecovery: boolean;
  readonly #source: ByteSource;
  readonly #superblock: Superblock;
  readonly #blocks: BlockCache;
  readonly #descriptors = new Map<number, GroupDescriptor>();
  /** The latest inode whose map was walked: reading a file goes on where it was. */
  #mapped?: { readonly inode: FileNode; readonly extents: readonly BlockExtent[] };

  constructor(source: ByteSource, superblock: Superblock) {
    this.#source = source;
    this.#superblock = superblock;
    this.#blocks = new BlockCache(source, superblock.blockSize);
    this.kind = kindOf(superblock);
    this.uuid = superblock.uuidText;
    this.label = superblock.label;
    this.size = superblock.blocks * superblock.blockSize;
    this.blockSize = superblock.blockSize;
    this.needsRecovery = (superblock.incompat & Incompat.recover) !== 0 || !superblock.clean;
  }

  async root(): Promise<FileNode> {
    const root = await this.#inode(rootInode);
    if (root.kind === 'directory') return root;
    throw new DiskError('corrupt', 'The root is no directory', { field: 'i_mode' });
  }

  async *entries(directory: FileNode): AsyncGenerator<DirectoryEntry> {
    const inode = directory as Inode;
    if (inode.kind !== 'directory') throw new DiskError('bad-argument', `Inode ${inode.id} is no directory`);
    if ((inode.flags & InodeFlag.encrypted) !== 0) {
      throw new DiskError('unsupported', `Directory inode ${inode.id} is encrypted`, { field: 'i_flags' });
    }
    for await (const raw of this.#rawEntries(inode)) {
      if (raw.name === '.' || raw.name === '..') continue;
      yield { name: raw.name, node: await this.#inode(raw.inode) };
    }
  }

  async *#rawEntries(inode: Inode): AsyncGenerator<RawEntry> {
    const hasFileType = (this.#superblock.incompat & Incompat.filetype) !== 0;
    if ((inode.flags & InodeFlag.inlineData) !== 0) {
      // The first four bytes are the parent's number.
      const part = { hasTail: false, hasFileType };
      yield* parseEntries(inode.block.subarray(4), inode, part);
      if (inode.inlineRest.length > 0) yield* parseEntries(inode.inlineRest, inode, part);
      return;
    }
    if (inode.size > this.size) {
      throw new DiskError('corrupt', `Directory inode ${inode.id} has ${inode.size} bytes`, {
        field: 'i_size',
      });
    }
    const end = Math.floor(inode.size / this.blockSize);
    const seen = new Set<number>();
    for await (const { logical, physical, count } of blockMap(this.#superblock, this.#blocks, inode)) {
      if (physical === undefined) continue;
      for (let i = 0; i < count && logical + i < end; i++) {
        if (seen.has(physical + i)) {
          throw new DiskError('corrupt', `Directory inode ${inode.id} has block ${physical + i} twice`);
        }
        seen.add(physical + i);
        const bytes = await this.#blocks.get(physical + i, 'directory');
        yield* parseEntries(bytes, inode, { hasTail: true, hasFileType });
      }
    }
  }

  async *extents(file: FileNode): AsyncGenerator<FileExtent> {
    const inode = file as Inode;
    if (this.#keepsContentInside(inode)) {
      if (inode.size > 0) yield { offset: 0, length: inode.size };
      return;
    }
    if (inode.kind !== 'file' && inode.kind !== 'directory' && inode.kind !== 'symlink') return;
    for await (const { logical, physical, count } of blockMap(this.#superblock, this.#blocks, inode)) {
      const offset = logical * this.blockSize;
      // Blocks past the end are set aside and hold nothing.
      if (offset >= inode.size) return;
      const length = Math.min(count * this.blockSize, inode.size - offset);
      yield { offset, length, place: physical === undefined ? undefined : physical * this.blockSize };
    }
  }

  async read(file: FileNode, offset: number, into: Uint8Array): Promise<number> {
    const inode = file as Inode;
    if (inode.kind !== 'file' && inode.kind !== 'symlink') {
      throw new DiskError('bad-argument', `Inode ${inode.id} is a ${inode.kind}`);
    }
    if ((inode.flags & InodeFlag.encrypted) !== 0) {
      throw new DiskError('unsupported', `Inode ${inode.id} is encrypted`, { field: 'i_flags' });
    }
    const length = Math.max(0, Math.min(into.length, inode.size - offset));
    const target = into.subarray(0, length);
    if (this.#keepsContentInside(inode)) {
      const content = new Uint8Array(inode.block.length + inode.inlineRest.length);
      content.set(inode.block);
      content.set(inode.inlineRest, inode.block.length);
      if (inode.size > content.length) {
        throw new DiskError('corrupt', `Inode ${inode.id}: ${inode.size} bytes cannot lie in it`, {
          field: 'i_size',
        });
      }
      target.set(content.subarray(offset, offset + length));
      return length;
    }
    target.fill(0);
    for (const { logical, physical, count } of await this.#extentsOf(inode)) {
      const start = logical * this.blockSize;
      const end = start + count * this.blockSize;
      if (end <= offset || physical === undefined) continue;
      if (start >= offset + length) break;
      const from = Math.max(start, offset);
      const to = Math.min(end, offset + length);
      await this.#source.read(
        physical * this.blockSize + (from - start),
        target.subarray(from - offset, to - offset),
      );
    }
    return length;
  }

  async target(link: FileNode): Promise<string> {
    if (link.kind !== 'symlink') throw new DiskError('bad-argument', `Inode ${link.id} is a ${link.kind}`);
    if (link.size > mostTarget) {
      throw new DiskError('corrupt', `Inode ${link.id}: a symbolic link of ${link.size} bytes`, {
        field: 'i_size',
      });
    }
    const bytes = new Uint8Array(link.size);
    await this.read(link, 0, bytes);
    return new TextDecoder().decode(bytes);
  }

  async *freeRanges(): AsyncGenerator<ByteRange> {
    if (this.needsRecovery) {
      throw new DiskError(
        'in-use',
        'The file system was not unmounted: its maps of free space may be out of date',
        {
          field: 's_state',
        },
      );
    }
    const { blockSize } = this;
    for await (const { start, end } of freeBlocks(this.#superblock, this.#blocks)) {
      yield { offset: start * blockSize, length: (end - start) * blockSize };
    }
  }

  #keepsContentInside(inode: Inode): boolean {
    if ((inode.flags & InodeFlag.inlineData) !== 0) return true;
    return (
      inode.kind === 'symlink' && inode.size < inode.block.length && (inode.flags & InodeFlag.extents) === 0
    );
  }

  async #extentsOf(inode: Inode): Promise<readonly BlockExtent[]> {
    if (this.#mapped?.inode !== inode) {
      const extents: BlockExtent[] = [];
      for await (const extent of blockMap(this.#superblock, this.#blocks, inode)) extents.push(extent);
      this.#mapped = { inode, extents };
    }
    return this.#mapped.extents;
  }

  async #inode(id: number): Promise<Inode> {
    const { inodes, inodesPerGroup, inodeSize } = this.#superblock;
    if (id < 1 || id > inodes) throw new DiskError('corrupt', `There is no inode ${id}`, { field: 'inode' });
    const group = Math.floor((id - 1) / inodesPerGroup);
    let descriptor = this.#descriptors.get(group);
    if (!descriptor) {
      descriptor = await readDescriptor(this.#superblock, this.#blocks, group);
      this.#descriptors.set(group, descriptor);
    }
    const at = ((id - 1) % inodesPerGroup) * inodeSize;
    const block = descriptor.inodeTable + Math.floor(at / this.blockSize);
    const within = at % this.blockSize;
    const bytes = (await this.#blocks.get(block, 'inode table')).subarray(within, within + inodeSize);
    return parseInode(this.#superblock, id, bytes, block * this.blockSize + within);
  }
}

/** As blkid tells them apart: by the features that the older drivers would not take. */
function kindOf({ compat, incompat, roCompat }: Superblock): string {
  const oldIncompat = Incompat.filetype | Incompat.recover | Incompat.metaBg;
  if ((incompat & ~oldIncompat) !== 0 || (roCompat & ~0x7) !== 0) return 'ext4';
  return (compat & 0x4) !== 0 ? 'ext3' : 'ext2';
}
