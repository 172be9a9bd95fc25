import { openExt4 } from './ext4/ext4.ts';
import { isExt } from './ext4/superblock.ts';
import { isFat } from './fat/boot-sector.ts';
import { openFat } from './fat/fat.ts';
import type { ByteRange, DirectoryEntry, FileExtent, FileNode, FileSystem } from './file-system.ts';
import { type ByteSource, errorAbout, nameOf } from './source.ts';

/** Whether one of those that are read here begins at the start of `source`. */
export async function hasFileSystem(source: ByteSource): Promise<boolean> {
  return (await isExt(source)) || isFat(source);
}

/** The file system that begins at the start of `source`; undefined for one that is not read here. Throws `corrupt`, `unsupported`. */
export async function openFileSystem(source: ByteSource): Promise<FileSystem | undefined> {
  try {
    if (await isExt(source)) return new NamedFileSystem(source, await openExt4(source));
    if (await isFat(source)) return new NamedFileSystem(source, await openFat(source));
    return undefined;
  } catch (error) {
    throw errorAbout(source, error);
  }
}

/** A file system whose errors say in which file it lies. */
class NamedFileSystem implements FileSystem {
  readonly name: string | undefined;
  readonly kind: string;
  readonly uuid: string;
  readonly label: string;
  readonly size: number;
  readonly blockSize: number;
  readonly needsRecovery: boolean;
  readonly #source: ByteSource;
  readonly #system: FileSystem;

  constructor(source: ByteSource, system: FileSystem) {
    this.#source = source;
    this.#system = system;
    this.name = nameOf(source);
    this.kind = system.kind;
    this.uuid = system.uuid;
    this.label = system.label;
    this.size = system.size;
    this.blockSize = system.blockSize;
    this.needsRecovery = system.needsRecovery;
  }

  root(): Promise<FileNode> {
    return this.#naming(this.#system.root());
  }

  entries(directory: FileNode): AsyncIterable<DirectoryEntry> {
    return this.#namingAll(this.#system.entries(directory));
  }

  extents(file: FileNode): AsyncIterable<FileExtent> {
    return this.#namingAll(this.#system.extents(file));
  }

  read(file: FileNode, offset: number, into: Uint8Array): Promise<number> {
    return this.#naming(this.#system.read(file, offset, into));
  }

  target(link: FileNode): Promise<string> {
    return this.#naming(this.#system.target(link));
  }

  freeRanges(): AsyncIterable<ByteRange> {
    return this.#namingAll(this.#system.freeRanges());
  }

  async #naming<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw errorAbout(this.#source, error);
    }
  }

  async *#namingAll<T>(found: AsyncIterable<T>): AsyncIterable<T> {
    try {
      yield* found;
    } catch (error) {
      throw errorAbout(this.#source, error);
    }
  }
}
