/**
 * What Node adds to the runtime-independent surface: host files and block devices.
 *
 * @module
 */
import { fstatSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import type { BackingReference, CreateContext, OptionValues } from './formats/driver.ts';
import type { Image } from './image/image.ts';
import {
  createImage,
  type OpenedLayer,
  type OpenImageOptions,
  openImage,
  openLayer,
  type ReferenceRequest,
} from './image/open.ts';
import { combineReference, requireFile } from './image/reference.ts';
import { assertNoDependents } from './platform/dependents.ts';
import { FileStore, openFileStore } from './storage/file.ts';
import type { ByteSource } from './storage/store.ts';

export * from './index.ts';
export { FileStore, openFileStore };

export interface OpenImageFileOptions
  extends Omit<OpenImageOptions, 'resolve' | 'canonicalPath' | 'identify'> {
  /** Writes even where other images are known to stand on this one, and so changes all of them. */
  readonly corruptDependents?: boolean;
}

/**
 * Opens an image file or block device and its backing chain. `path` is a name as QEMU takes it: `file:` may
 * precede it. Backing files are looked for relative to the file that names them.
 *
 * Throws `not-found`, `denied`, `locked` (another program uses it), `in-use` (writable, and others stand on it),
 * `corrupt`, `unsupported` (a protocol, a format, a chain too deep).
 */
export async function openImageFile(path: string, options: OpenImageFileOptions = {}): Promise<Image> {
  return openImage(await openTop(path, options), nodeOptions(options));
}

/** Opens the image file alone, without its backing chain, for those who need no guest data (`info`, `check`). */
export async function openLayerFile(path: string, options: OpenImageFileOptions = {}): Promise<OpenedLayer> {
  return openLayer(await openTop(path, options), nodeOptions(options));
}

export interface CreateImageFileOptions extends Omit<CreateContext, 'sibling'> {
  readonly format: string;
  /** Guest bytes. */
  readonly size: number;
  /** Creation options by QEMU's names. */
  readonly options?: OptionValues;
  /** Named in the new image as written here, so relative to its directory. It is not opened. */
  readonly backing?: BackingReference;
  /** Replaces an image that others are known to stand on. */
  readonly corruptDependents?: boolean;
  readonly signal?: AbortSignal;
}

/** Creates an image file, or lays an image over a block device. A file that is there is replaced. */
export async function createImageFile(path: string, options: CreateImageFileOptions): Promise<void> {
  const file = requireFile(path);
  await assertNoDependents(file, { force: options.corruptDependents });
  await using store = await openFileStore(file, { create: 'truncate' });
  await createImage(store, options.format, options.size, options.options, {
    backing: options.backing,
    onProgress: options.onProgress,
  });
  await store.flush();
}

async function openTop(path: string, options: OpenImageFileOptions): Promise<FileStore> {
  const file = requireFile(path);
  if (options.writable) await assertNoDependents(file, { force: options.corruptDependents });
  return openFileStore(file, { writable: options.writable });
}

function nodeOptions(options: OpenImageFileOptions): OpenImageOptions {
  return { ...options, resolve, canonicalPath: (path) => realpath(path).catch(() => path), identify };
}

async function resolve(reference: BackingReference, from: ReferenceRequest): Promise<ByteSource> {
  const path = requireFile(combineReference(from.name, reference.path));
  return openFileStore(path, { writable: from.writable });
}

/** One file has one device and inode, whatever its names are. */
function identify(source: ByteSource): string {
  if (!(source instanceof FileStore)) return source.name;
  const { dev, ino } = fstatSync(source.fd, { bigint: true });
  return `${dev}:${ino}`;
}
