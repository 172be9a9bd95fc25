/** What a name in a file system stands for. */
export type FileKind =
  | 'file'
  | 'directory'
  | 'symlink'
  | 'character-device'
  | 'block-device'
  | 'fifo'
  | 'socket';

/** A file of any kind. A plain value; hand it back to the file system that it is from. */
export interface FileNode {
  /** The same for all names of one file: ext4's inode number; in FAT where its directory entry lies. */
  readonly id: number;
  readonly kind: FileKind;
  /** Bytes of content; a symbolic link's is its target. */
  readonly size: number;
  /** Permission bits (07777). FAT has none: 0755 for directories, 0644 for files. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, of the last change of content. */
  readonly mtime: number;
}

export interface DirectoryEntry {
  readonly name: string;
  readonly node: FileNode;
}

/** Where a stretch of a file's content lies, in bytes. */
export interface FileExtent {
  /** Within the file. */
  readonly offset: number;
  readonly length: number;
  /** Within the file system; undefined where it reads as zeroes, or lies in the file's own record. */
  readonly place?: number;
}

/** Bytes within the file system. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/**
 * A file system that is read, never written. All work is bounded by its size, whatever its structures claim: what cannot
 * be true throws `corrupt` with the place, what is not understood `unsupported`.
 */
export interface FileSystem {
  /** The file that it lies in, as errors name it. */
  readonly name?: string;
  /** As blkid names it: `ext4`, `vfat` … */
  readonly kind: string;
  /** As blkid shows it; '' where there is none. */
  readonly uuid: string;
  readonly label: string;
  /** Bytes that it covers. */
  readonly size: number;
  readonly blockSize: number;
  /**
   * It was not unmounted: changes still wait in its journal, or were cut short. What is read may be older than what the
   * guest will find, and `freeRanges` refuses.
   */
  readonly needsRecovery: boolean;
  root(): Promise<FileNode>;
  /** A directory's entries without `.` and `..`, as they lie. */
  entries(directory: FileNode): AsyncIterable<DirectoryEntry>;
  /** The stretches of a file's content in order; what lies between them reads as zeroes. */
  extents(file: FileNode): AsyncIterable<FileExtent>;
  /** Reads content from `offset` on; gives how many bytes there were. */
  read(file: FileNode, offset: number, into: Uint8Array): Promise<number>;
  /** What a symbolic link leads to. */
  target(link: FileNode): Promise<string>;
  /**
   * What no file and no structure uses, in order: its content is nobody's. Throws `in-use` where `needsRecovery`, and
   * `corrupt` where the maps of free space are not sound.
   */
  freeRanges(): AsyncIterable<ByteRange>;
}
