import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { BlockCache } from '../block-cache.ts';
import type { ByteRange, DirectoryEntry, FileExtent, FileNode, FileSystem } from '../file-system.ts';
import { type ByteSource, readPart } from '../source.ts';
import { type FatLayout, readFatLayout } from './boot-sector.ts';
import { Attribute, type FatEntry, parseFatEntries } from './directory.ts';

/** Bytes of a FAT that are read at a time: a multiple of 3, so that no entry of 12 bits lies across two. */
const pageSize = 3 * 4096;

/** Bytes that a directory may have: 65,536 entries of 32. */
const mostDirectory = 2 * 1024 * 1024;

interface FatNode extends FileNode {
  readonly cluster: number;
}

/** Reads a FAT12, FAT16 or FAT32 file system. Throws `corrupt`. */
export async function openFat(source: ByteSource): Promise<FileSystem> {
  const layout = await readFatLayout(source);
  const fat = new Fat(source, layout);
  const clean = layout.bits === 12 || (await fat.isClean());
  const label = await fat.rootLabel();
  return Object.assign(fat, {
    needsRecovery: !clean,
    label: label ?? (layout.label === 'NO NAME' ? '' : layout.label),
  });
}

class Fat implements FileSystem {
  readonly kind = 'vfat';
  readonly uuid: string;
  readonly size: number;
  readonly blockSize: number;
  label = '';
  needsRecovery = false;
  readonly #source: ByteSource;
  readonly #layout: FatLayout;
  readonly #table: BlockCache;

  constructor(source: ByteSource, layout: FatLayout) {
    this.#source = source;
    this.#layout = layout;
    // Its last page may end before the others do.
    const { fatOffset, fatSize } = layout;
    const table: ByteSource = {
      size: Math.ceil(fatSize / pageSize) * pageSize,
      async read(offset, into) {
        const length = Math.min(into.length, fatSize - offset);
        await source.read(fatOffset + offset, into.subarray(0, length));
      },
    };
    this.#table = new BlockCache(table, pageSize);
    this.uuid = layout.uuid;
    this.size = layout.size;
    this.blockSize = layout.clusterSize;
  }

  /** The second entry says whether it was unmounted, and whether reads failed. */
  async isClean(): Promise<boolean> {
    const entry = await this.#entry(1);
    const both = this.#layout.bits === 32 ? 0x0c00_0000 : 0xc000;
    return (entry & both) === both;
  }

  async rootLabel(): Promise<string | undefined> {
    const root = (await this.root()) as FatNode;
    for (const { at, attributes } of parseFatEntries(await this.#directoryBytes(root))) {
      if ((attributes & (Attribute.volume | Attribute.directory)) !== Attribute.volume) continue;
      const bytes = (await this.#directoryBytes(root)).subarray(at, at + 11);
      return new TextDecoder('latin1').decode(bytes).trimEnd();
    }
    return undefined;
  }

  async root(): Promise<FileNode> {
    const { rootCluster } = this.#layout;
    return {
      ...this.#node({ attributes: Attribute.directory, cluster: rootCluster, size: 0, mtime: 0 }, 0),
      size: 0,
    };
  }

  #node(entry: Pick<FatEntry, 'attributes' | 'cluster' | 'size' | 'mtime'>, id: number): FatNode {
    const directory = (entry.attributes & Attribute.directory) !== 0;
    return {
      id,
      kind: directory ? 'directory' : 'file',
      size: directory ? 0 : entry.size,
      mode: directory ? 0o755 : 0o644,
      uid: 0,
      gid: 0,
      mtime: entry.mtime,
      // FAT12 and FAT16 keep something else in the upper half.
      cluster: this.#layout.bits === 32 ? entry.cluster : entry.cluster & 0xffff,
    };
  }

  async *entries(directory: FileNode): AsyncGenerator<DirectoryEntry> {
    if (directory.kind !== 'directory') throw new DiskError('bad-argument', 'This is no directory');
    for (const entry of parseFatEntries(await this.#directoryBytes(directory as FatNode))) {
      if ((entry.attributes & Attribute.volume) !== 0 || entry.name === '.' || entry.name === '..') continue;
      if (entry.name === '' || /[/\0]/.test(entry.name)) {
        throw new DiskError('corrupt', 'A name has a slash in it, or nothing', { field: 'DIR_Name' });
      }
      const isDirectory = (entry.attributes & Attribute.directory) !== 0;
      // A directory is known by where its content begins, so that one within itself is found.
      const id = isDirectory ? entry.cluster : -((directory as FatNode).cluster * 65_536 + entry.at / 32 + 1);
      yield { name: entry.name, node: this.#node(entry, id) };
    }
  }

  async #directoryBytes(directory: FatNode): Promise<Uint8Array> {
    const { rootOffset, rootSize, clusterSize } = this.#layout;
    if (directory.cluster === 0) {
      if (rootSize === 0)
        throw new DiskError('corrupt', 'A directory has no clusters', { field: 'DIR_FstClus' });
      return readPart(this.#source, rootOffset, rootSize, 'root directory');
    }
    const parts: Uint8Array[] = [];
    for await (const { first, count } of this.#chain(directory.cluster)) {
      if (
        parts.reduce((sum, part) => sum + part.length, 0) + count * clusterSize >
        mostDirectory + clusterSize
      ) {
        throw new DiskError('corrupt', 'A directory of more than 65,536 entries', { field: 'DIR_FstClus' });
      }
      parts.push(await readPart(this.#source, this.#place(first), count * clusterSize, 'directory'));
    }
    const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  async *extents(file: FileNode): AsyncGenerator<FileExtent> {
    const node = file as FatNode;
    if (node.kind === 'file' && (node.size === 0 || node.cluster === 0)) {
      if (node.size > 0)
        throw new DiskError('corrupt', `A file of ${node.size} bytes has no clusters`, {
          field: 'DIR_FstClus',
        });
      return;
    }
    if (node.cluster === 0) {
      yield { offset: 0, length: this.#layout.rootSize, place: this.#layout.rootOffset };
      return;
    }
    const { clusterSize } = this.#layout;
    const end = node.kind === 'file' ? node.size : Number.POSITIVE_INFINITY;
    let offset = 0;
    for await (const { first, count } of this.#chain(node.cluster)) {
      if (offset >= end) return;
      yield { offset, length: Math.min(count * clusterSize, end - offset), place: this.#place(first) };
      offset += count * clusterSize;
    }
    if (node.kind === 'file' && offset < end) {
      throw new DiskError('corrupt', `A file of ${node.size} bytes has clusters for ${offset}`, {
        field: 'DIR_FileSize',
      });
    }
  }

  async read(file: FileNode, offset: number, into: Uint8Array): Promise<number> {
    if (file.kind !== 'file') throw new DiskError('bad-argument', `This is a ${file.kind}`);
    const length = Math.max(0, Math.min(into.length, file.size - offset));
    for await (const extent of this.extents(file)) {
      if (extent.offset >= offset + length) break;
      const from = Math.max(extent.offset, offset);
      const to = Math.min(extent.offset + extent.length, offset + length);
      if (to <= from) continue;
      await this.#source.read(
        extent.place! + (from - extent.offset),
        into.subarray(from - offset, to - offset),
      );
    }
    return length;
  }

  async target(): Promise<string> {
    throw new DiskError('bad-argument', 'FAT has no symbolic links');
  }

  async *freeRanges(): AsyncGenerator<ByteRange> {
    if (this.needsRecovery) {
      throw new DiskError(
        'in-use',
        'The file system was not unmounted: its map of free space may be out of date',
        {
          field: 'FAT[1]',
        },
      );
    }
    const { clusters, clusterSize } = this.#layout;
    let first = -1;
    for (let cluster = 2; cluster <= clusters + 2; cluster++) {
      const free = cluster < clusters + 2 && (await this.#entry(cluster)) === 0;
      if (free && first < 0) first = cluster;
      if (free || first < 0) continue;
      yield { offset: this.#place(first), length: (cluster - first) * clusterSize };
      first = -1;
    }
  }

  #place(cluster: number): number {
    return this.#layout.dataOffset + (cluster - 2) * this.#layout.clusterSize;
  }

  /** The clusters of a chain, neighbours as one. Throws `corrupt` where it leaves the volume or never ends. */
  async *#chain(start: number): AsyncGenerator<{ first: number; count: number }> {
    const { clusters, bits } = this.#layout;
    const end = bits === 32 ? 0x0fff_fff8 : bits === 16 ? 0xfff8 : 0xff8;
    let [first, count, seen] = [start, 0, 0];
    for (let cluster = start; ; ) {
      if (cluster < 2 || cluster >= clusters + 2) {
        throw new DiskError('corrupt', `A chain leads to cluster ${cluster}, which is none`, {
          field: 'FAT',
        });
      }
      seen += 1;
      if (seen > clusters) throw new DiskError('corrupt', 'A chain of clusters never ends', { field: 'FAT' });
      count += 1;
      const next = await this.#entry(cluster);
      if (next === cluster + 1 && next < end) {
        cluster = next;
        continue;
      }
      yield { first, count };
      if (next >= end) return;
      [first, count, cluster] = [next, 0, next];
    }
  }

  /** Entry `cluster` of the first FAT. */
  async #entry(cluster: number): Promise<number> {
    const { bits } = this.#layout;
    const bit = cluster * bits;
    const at = Math.floor(bit / 8);
    const view = viewOf(await this.#table.get(Math.floor(at / pageSize), 'FAT'));
    const within = at % pageSize;
    if (bits === 32) return view.getUint32(within, true) & 0x0fff_ffff;
    if (bits === 16) return view.getUint16(within, true);
    const pair = view.getUint8(within) | (view.getUint8(within + 1) << 8);
    return bit % 8 === 0 ? pair & 0xfff : pair >> 4;
  }
}
