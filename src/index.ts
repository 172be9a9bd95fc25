/**
 * Cowherd's runtime-independent surface: disk images over bytes, wherever these lie. Nothing here, and nothing it
 * reaches, imports a module of Node, so that it runs in a browser over a Blob or HTTP ranges. Files and block
 * devices are in `cowherd/node`.
 *
 * ```ts
 * await using image = await openImage(new BlobSource(file));
 * const sector = new Uint8Array(512);
 * await image.read(0, sector);
 * ```
 *
 * @module
 */
/// <reference lib="esnext.disposable" preserve="true" />
// First: what comes after names methods by these symbols.
import './bytes/dispose-symbols.ts';

export { useZstd, type ZstdDecoder } from './codecs/zstd.ts';
export { DiskError, type DiskErrorCode, type ErrorPlace, isDiskError } from './errors.ts';
export type * from './filesystems/file-system.ts';
export { openFileSystem } from './filesystems/open.ts';
export { type Partition, type PartitionTable, readPartitions } from './filesystems/partitions.ts';
export type { ByteSource } from './filesystems/source.ts';
export { lookUp, type TreeEntry, walkTree } from './filesystems/tree.ts';
export { type Volume, volumesOf } from './filesystems/volumes.ts';
export type * from './formats/driver.ts';
export { isWritable } from './formats/driver.ts';
export { findFormat, formats } from './formats/index.ts';
export type { ChainRun, Image, RunScope } from './image/image.ts';
export { parseJsonName } from './image/nodes/json-dialect.ts';
export { NodeOptions, type NodeValue } from './image/nodes/node-options.ts';
export { parseImageOptions } from './image/nodes/option-list.ts';
export {
  createImage,
  type OpenedLayer,
  type OpenImageOptions,
  type OpenLayerOptions,
  openImage,
  openLayer,
  type ReferenceRequest,
  type ResolveReference,
} from './image/open.ts';
export { type NamingImage, type ReferencePolicy, trustedImages, untrustedImages } from './image/policy.ts';
export { combineReference, parseReference, type Reference } from './image/reference.ts';
export { checkImage } from './operations/check.ts';
export { type CommitOptions, commitImage } from './operations/commit.ts';
export { type CompareOptions, type Comparison, compareImages } from './operations/compare.ts';
export { convertImages } from './operations/convert.ts';
export type { ConvertOptions } from './operations/convert-options.ts';
export { type MapEntry, type MapScope, mapImage } from './operations/map.ts';
export { measureImage } from './operations/measure.ts';
export { BlobSource } from './storage/blob.ts';
export { type HttpOptions, openHttpSource } from './storage/http.ts';
export { allPermissions, type ImageLock, Permission } from './storage/image-lock.ts';
export { MemoryStore } from './storage/memory.ts';
export { OpfsStore, type SyncAccessHandle } from './storage/opfs.ts';
export type * from './storage/store.ts';
export { hostFileOf } from './storage/store.ts';
