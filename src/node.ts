/**
 * What Node adds to the runtime-independent surface: host files and block devices.
 *
 * @module
 */
// First: what comes after names methods by these symbols.
import './bytes/dispose-symbols.ts';

import { fstatSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, normalize, relative, resolve as resolvePath } from 'node:path';
import { assertText } from './bytes/byte-text.ts';
import { DiskError, errorIn, isDiskError } from './errors.ts';
import type { BackingPlace, BackingReference, CreateContext, OptionValues } from './formats/driver.ts';
import type { Image } from './image/image.ts';
import { takesNewImages } from './image/nodes/drivers/index.ts';
import type { NodeHost } from './image/nodes/node-driver.ts';
import { NodeOptions } from './image/nodes/node-options.ts';
import { noSuchNode, prepareNode } from './image/nodes/open-node.ts';
import {
  createImage,
  type OpenedLayer,
  type OpenImageOptions,
  openImage,
  openLayer,
  type PreparedNode,
  type ReferenceRequest,
  type ResolveReference,
} from './image/open.ts';
import { assertAllowed, type NamingImage, type ReferencePolicy, untrustedImages } from './image/policy.ts';
import { combineReference, requireFile } from './image/reference.ts';
import { warnOfUnflushed } from './image/unflushed.ts';
import { type Aside, createAside } from './platform/atomic-file.ts';
import { registerThreadCrew } from './platform/cipher-crew.ts';
import { assertNoDependents } from './platform/dependents.ts';
import { errnoOf, systemError } from './platform/errno.ts';
import { warnAtExit } from './platform/exit-warning.ts';
import { identityOf } from './platform/file-facts.ts';
import { realPathOf } from './platform/host-names.ts';
import { registerNodePrimitives } from './platform/node-primitives.ts';
import { connectSocket } from './platform/socket-stream.ts';
import { isAppendOnly, placeOf, replaceRefusal } from './platform/target-place.ts';
import { registerXzCodec } from './platform/xz-codec.ts';
import { registerZlibCodec } from './platform/zlib-codec.ts';
import { registerZstdCodec } from './platform/zstd-codec.ts';
import { FileStore, onLocksMissing, openFileStore } from './storage/file.ts';
import { commitTogether } from './storage/file-group.ts';
import {
  keepsItsPlace,
  madeInPlace,
  openExisting,
  sweepFor,
  type TargetFile,
  type TargetOptions,
  writtenInPlace,
} from './storage/file-target.ts';
import { FilterStore } from './storage/filter-store.ts';
import { replacementLock } from './storage/image-lock.ts';
import { type ByteSource, type ByteStore, bottomOf } from './storage/store.ts';

// The built-in codec runs everywhere; Node's own is several times as fast and works on several cores.
registerZlibCodec();
registerZstdCodec();
registerXzCodec();
registerNodePrimitives();
registerThreadCrew();
warnOfUnflushed(warnAtExit);

export * from './index.ts';
export type { TargetFile, TargetOptions } from './storage/file-target.ts';
export { FileStore, onLocksMissing, openFileStore };

export interface OpenImageFileOptions
  extends Omit<OpenImageOptions, 'resolve' | 'canonicalPath' | 'identify' | 'depth' | 'policy'> {
  /** What nodes may ask of the world: throttle groups, secrets. Files are opened here. */
  readonly host?: Omit<NodeHost, 'openFile'>;
  /**
   * What the image may name. Default: `untrustedImages`, files in its own directory; hand over `trustedImages` for one
   * whose origin is known.
   */
  readonly policy?: ReferencePolicy;
  /** Space that is given up goes back to the host where no option of a node says otherwise, as QEMU's tools have it. */
  readonly discards?: boolean;
  /** Writes even where other images are known to stand on this one, and so changes all of them. */
  readonly corruptDependents?: boolean;
  /** As `OpenFileOptions.foreground`, for every file of the image and its chain. */
  readonly foreground?: boolean;
  /** As `OpenFileOptions.writeBehind`, likewise. */
  readonly writeBehind?: boolean;
  /** As `OpenFileOptions.unflushed`, likewise. */
  readonly unflushed?: boolean;
  /** Told of each file of the host that is opened for it. */
  readonly onFile?: (file: Pick<FileStore, 'device' | 'inode' | 'size'>) => void;
}

/**
 * Opens an image and its backing chain. `name` is a file name as QEMU takes it (a path, a name with a protocol,
 * `json:{…}`), or the options of a node. Backing files are looked for relative to the file that names them.
 *
 * Throws `not-found`, `denied`, `locked` (another program uses it), `in-use` (writable, and others stand on it),
 * `corrupt`, `unsupported` (a protocol, a format, a chain too deep).
 */
export async function openImageFile(
  name: string | NodeOptions,
  options: OpenImageFileOptions = {},
): Promise<Image> {
  if (!(name instanceof NodeOptions)) assertText(name);
  return naming(name, async () => {
    const node = await openTop(name, options);
    return openImage(node, nodeOptions(node, options));
  });
}

/** Opens the image alone, without its backing chain, for those who need no guest data (`info`, `check`). */
export async function openLayerFile(
  name: string | NodeOptions,
  options: OpenImageFileOptions = {},
): Promise<OpenedLayer> {
  if (!(name instanceof NodeOptions)) assertText(name);
  return naming(name, async () => {
    const node = await openTop(name, options);
    return openLayer(node, nodeOptions(node, options));
  });
}

/** Throws `denied` or `unsupported` where the image `from` may not name `reference` as its backing image. */
export function assertReferenceAllowed(
  reference: string,
  from: NamingImage,
  policy: ReferencePolicy,
): Promise<void> {
  return assertAllowed(reference, { ...from, role: 'backing' }, policy, canonicalPath);
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
  /** False leaves it to the system when the file reaches the disk. Default true. */
  readonly durable?: boolean;
  readonly signal?: AbortSignal;
}

/**
 * Creates an image file, or lays an image over a block device. A file that is there is replaced when the new one is
 * whole: until then, and if this throws, it stays as it was (see `createTarget` for when that cannot be).
 *
 * Throws `locked` and `in-use` when the file that is there is used, what the format's `create` throws, and the reason of the signal.
 */
export async function createImageFile(path: string, options: CreateImageFileOptions): Promise<void> {
  const { signal, onProgress } = options;
  signal?.throwIfAborted();
  await using target = await createImageTarget(path, { ...options, emptyLate: true });
  await createImage(target.store, options.format, options.size, options.options, {
    ...target.context(options.backing),
    secret: options.secret,
    signal,
    onProgress: (done, total) => {
      signal?.throwIfAborted();
      onProgress?.(done, total);
    },
  });
  signal?.throwIfAborted();
  await target.commit({ durable: options.durable });
}

/** The file of a new image, with those that its format keeps beside it (extents, a data file). */
export interface ImageTarget extends TargetFile {
  /** For `createImage`: the files that the format makes take their places with the image. */
  context(backing?: BackingReference): CreateContext;
  /** For opening the new image: its own files as they are being made, others as they lie. */
  resolver(options: OpenImageFileOptions): ResolveReference;
}

/** As `createTarget`, for an image of any format. */
export async function createImageTarget(path: string, options: TargetOptions = {}): Promise<ImageTarget> {
  assertText(path);
  const main = await createTarget(path, options);
  const siblings = new Map<string, TargetFile>();
  /** Of the siblings. */
  const folders = new Set<string>();
  return {
    ...main,
    context: (backing) => ({
      backing,
      name: takesNewImages(path) ? path : basename(requireFile(path)),
      async sibling(name) {
        if (name === '') throw systemError('ENOENT', 'create', name, { detail: { sibling: name } });
        const named = requireFile(combineReference(path, name));
        const place = normalize(named);
        if (!takesNewImages(path) && place === normalize(requireFile(path))) {
          throw new DiskError('bad-argument', `'${name}' is the image itself`, { path, field: 'data_file' });
        }
        const folder = dirname(place);
        const file =
          siblings.get(place) ?? (await createSibling(named, { ...options, sweep: !folders.has(folder) }));
        siblings.set(place, file);
        folders.add(folder);
        return file.store;
      },
      openBacking: backing && (async () => (await openTop(combineReference(path, backing.path), {})).source),
      backingPlace: backing && !takesNewImages(path) ? () => placeOfBacking(path, backing.path) : undefined,
    }),
    resolver: (opening) => async (reference, from) => {
      const name = combineReference(from.name, reference.path);
      const own = from.role === 'file' && siblings.get(normalize(requireFile(name)));
      return own ? own.store : resolve(reference, from, opening);
    },
    commit: (how) => commitTogether(main, [...siblings.values()], how),
    async [Symbol.asyncDispose]() {
      for (const file of siblings.values()) await file[Symbol.asyncDispose]();
      await main[Symbol.asyncDispose]();
    },
  };
}

/** As `createTarget`; where the place cannot be used, `detail.sibling` says that it is not the image's own. */
async function createSibling(place: string, options: TargetOptions): Promise<TargetFile> {
  try {
    return await createTarget(place, options);
  } catch (error) {
    const errno = isDiskError(error) ? error.detail.errno : errnoOf(error);
    if (typeof errno !== 'string') throw error;
    throw systemError(errno, 'create', place, { detail: { sibling: place }, cause: error });
  }
}

async function placeOfBacking(path: string, reference: string): Promise<BackingPlace> {
  const absolute = resolvePath(requireFile(combineReference(path, reference)));
  const named = requireFile(reference);
  if (!isAbsolute(named)) return { absolute, relative: named };
  // `..` leads out of the folder itself, not out of a link to it.
  const [from, to] = await Promise.all([dirname(resolvePath(path)), dirname(absolute)].map(canonicalPath));
  return { absolute, relative: join(relative(from, to), basename(absolute)) };
}

/**
 * Prepares a file to be written aside and to take the place of `path` when it is whole. Written in place are block
 * devices, files that a process has open (`/dev/fd/3`), and unless told to keep them, files that are empty (and are so again if it is
 * not committed) or with other hard links (which would keep the old content) and files that nothing can be renamed over: in a directory where nothing can be created, mount points, others' in a
 * sticky directory, and what lies, or is new, in one that only takes new files. Deletes what runs that were killed have left of this file.
 *
 * Throws `locked` while another program uses the file that is there, `in-use` when other images stand on it.
 */
export async function createTarget(path: string, options: TargetOptions = {}): Promise<TargetFile> {
  assertText(path);
  if (takesNewImages(path)) return exportTarget(path);
  const file = requireFile(path);
  const place = placeOf(file);
  // First: a run that was killed may have left another name of the file, or the only one that it has.
  if (place.kind === 'file') sweepFor(place.path, options.sweep);
  await assertNoDependents(file, { force: options.corruptDependents });
  const old = await openExisting(file, options.unflushed);
  const { keepLinks = false } = options;
  let aside: Aside;
  try {
    if (old && keepsItsPlace(fstatSync(old.fd, { bigint: true }), place, options)) {
      return await writtenInPlace(file, old, options);
    }
    if (!old && !keepLinks && isAppendOnly(dirname(place.path)))
      return await madeInPlace(place.path, options);
    aside = createAside(file);
  } catch (error) {
    await old?.[Symbol.asyncDispose]();
    throw error;
  }
  let store: FileStore;
  try {
    // Until the name leads to the new file, nobody else may start to use the old one for writing.
    await old?.lock(replacementLock);
    const { foreground, unflushed, mode } = options;
    // Some file systems send all of a file to the disk before it takes another one's name: let that begin at once.
    const writeBehind = options.writeBehind || old !== undefined;
    store = await openFileStore(aside.path, {
      create: 'exclusive',
      name: file,
      foreground,
      writeBehind,
      unflushed,
      // Who may not read the old file must not read the new one while it is written. (`commit` gives it the old one's permissions.)
      mode: mode ?? (old && 0o600),
    });
    if (!old && !keepLinks && isAppendOnly(dirname(place.path)) === undefined && replaceRefusal(aside.path)) {
      // Its folder lets nothing go, which only what lies there could tell: an empty file stays, which is less than a copy that does.
      await store[Symbol.asyncDispose]();
      await aside.abandon().catch(() => undefined);
      return await madeInPlace(place.path, options);
    }
  } catch (error) {
    await aside.abandon();
    if (old && !keepLinks && isDiskError(error, 'denied')) return writtenInPlace(file, old, options);
    await old?.[Symbol.asyncDispose]();
    throw error;
  }
  return {
    store,
    written: aside.path,
    aside: true,
    replaces: old !== undefined,
    withdraw: aside.withdraw,
    takeBack: aside.takeBack,
    async settle() {
      await store[Symbol.asyncDispose]();
      await aside.settle();
    },
    async commit(how) {
      await store[Symbol.asyncDispose]();
      const release = async () => old?.[Symbol.asyncDispose]();
      await aside.commit({ ...how, mode: options.mode, release });
    },
    async [Symbol.asyncDispose]() {
      try {
        await store[Symbol.asyncDispose]();
        await aside.abandon();
      } finally {
        await old?.[Symbol.asyncDispose]();
      }
    },
  };
}

/** An export of a server: an image is laid into it as over a device. */
async function exportTarget(path: string): Promise<TargetFile> {
  let store: ByteStore;
  try {
    const context = { host: hostFor({}), writable: true, imageOptions: imageOptions({}, 0) };
    store = (await prepareNode({ filename: path, asProtocol: true }, context)).source as ByteStore;
  } catch (error) {
    if (!isDiskError(error)) throw error;
    const message = `Protocol driver 'nbd' does not support image creation, and opening the image failed: ${error.message}`;
    throw new DiskError(error.code, message, { path, field: 'nbd', cause: error });
  }
  const close = async () => store[Symbol.asyncDispose]();
  try {
    // What lay there before must not be taken for what is there now.
    await store.zero(0, Math.min(store.size, signatureBytes), { punch: false });
  } catch (error) {
    await close();
    throw error;
  }
  return {
    store: new KeptOpen(store),
    written: path,
    aside: false,
    replaces: true,
    withdraw() {
      // Its content is gone already.
    },
    takeBack() {
      // As before.
    },
    settle: () => store.flush(),
    async commit({ durable = true } = {}) {
      if (durable) await store.flush();
      await close();
    },
    [Symbol.asyncDispose]: close,
  };
}

const signatureBytes = 512;

/** A store that others may close without it being closed: it is flushed afterwards. */
class KeptOpen extends FilterStore {
  override async [Symbol.asyncDispose](): Promise<void> {
    // Whoever made it closes what lies beneath.
  }
}

/** Does work on an image; an error of it that does not say where it lies lies in that image. */
async function naming<T>(name: string | NodeOptions, work: () => Promise<T>): Promise<T> {
  const path = typeof name === 'string' ? name : (name.text('filename') ?? name.text('file.filename'));
  try {
    return await work();
  } catch (error) {
    throw path ? errorIn(path, error) : error;
  }
}

async function openTop(name: string | NodeOptions, options: OpenImageFileOptions): Promise<PreparedNode> {
  const { writable = false, format } = options;
  const given = typeof name === 'string' ? NodeOptions.none : name;
  return prepareNode(
    {
      filename: typeof name === 'string' ? name : undefined,
      options: format === undefined ? given : given.with('driver', format),
    },
    {
      host: hostFor(options, async (path) => {
        if (writable) await assertNoDependents(path, { force: options.corruptDependents });
      }),
      writable,
      discards: options.discards,
      imageOptions: imageOptions(options, 0),
    },
  );
}

/** The host's files; `before` may refuse one that would be written. */
function hostFor(options: OpenImageFileOptions, before?: (path: string) => Promise<void>): NodeHost {
  return {
    connect: connectSocket,
    ...options.host,
    secret: options.secret,
    async openFile(path, { writable, device }) {
      if (writable) await before?.(path);
      const { foreground, writeBehind, unflushed } = options;
      const store = await openFileStore(path, { writable, foreground, writeBehind, unflushed });
      options.onFile?.(store);
      if (!device || store.fileKind === 'block') return store;
      await store[Symbol.asyncDispose]();
      throw new DiskError(
        'bad-argument',
        `'host_device' driver requires '${path}' to be either a character or block device`,
        { path, field: 'filename' },
      );
    },
  };
}

/** For the top image: what its description has said already is not said again. */
function nodeOptions(node: PreparedNode, options: OpenImageFileOptions): OpenImageOptions {
  return { ...imageOptions(options, 0), format: node.format };
}

function imageOptions(options: OpenImageFileOptions, depth: number): OpenImageOptions {
  return {
    ...options,
    policy: options.policy ?? untrustedImages,
    format: undefined,
    depth,
    resolve: (reference, from) => resolve(reference, from, options),
    canonicalPath,
    identify,
  };
}

/** Opens what images name as `openImageFile` does, by the same policy: for who opens the first image of a chain himself. */
export function fileResolver(options: OpenImageFileOptions = {}): ResolveReference {
  return (reference, from) => resolve(reference, from, options);
}

async function resolve(
  reference: BackingReference,
  from: ReferenceRequest,
  options: OpenImageFileOptions,
): Promise<PreparedNode> {
  const given = from.options ?? NodeOptions.none;
  const node = given.text('reference');
  if (node !== undefined) throw noSuchNode(node);
  const context = {
    host: hostFor(options),
    writable: from.writable,
    imageOptions: { ...imageOptions(options, from.depth + 1), writableBacking: undefined },
  };
  const asProtocol = from.role === 'file';
  const named = !given.has('file.filename') && !(asProtocol && given.has('filename'));
  const filename = named ? combineReference(from.name, reference.path) : undefined;
  const { format } = reference;
  const withFormat = format !== undefined && !given.has('driver') ? given.with('driver', format) : given;
  const described = filename ?? given;
  return naming(described, () => prepareNode({ filename, options: withFormat, asProtocol }, context));
}

/**
 * A path without symbolic links; of one that does not exist, as far as it does. Throws `unsupported` where links lead to a name that is
 * not UTF-8.
 */
export async function canonicalPath(path: string): Promise<string> {
  try {
    return realPathOf(path);
  } catch (error) {
    if (isDiskError(error)) throw error;
    const parent = dirname(path);
    return parent === path ? path : join(await canonicalPath(parent), basename(path));
  }
}

/** One file is one, whatever its names are. */
function identify(source: ByteSource): string {
  const bottom = bottomOf(source);
  if (!(bottom instanceof FileStore)) return source.name;
  return identityOf(fstatSync(bottom.fd, { bigint: true }));
}
