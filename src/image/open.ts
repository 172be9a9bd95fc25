import type { KeyRing } from '../crypto/luks/key-ring.ts';
import { DiskError, errorIn, isDiskError } from '../errors.ts';
import type {
  BackingReference,
  CreateContext,
  FormatDriver,
  Layer,
  OpenContext,
  OptionValues,
} from '../formats/driver.ts';
import { formats } from '../formats/index.ts';
import { checkOptions } from '../formats/option-values.ts';
import type { RequestPolicy } from '../storage/request-policy.ts';
import { assertSized, type ByteSource, type ByteStore, bottomOf, hostFileOf } from '../storage/store.ts';
import { DiskImage } from './disk-image.ts';
import type { Image } from './image.ts';
import { takeLocks } from './locks.ts';
import type { NodeOptions } from './nodes/node-options.ts';
import { assertAllowed, type NamingImage, type ReferencePolicy, trustedImages } from './policy.ts';
import { probeFormat, readProbeView, requireFormat } from './probe.ts';
import { StoreClaims } from './store-claims.ts';

/** What an image's reference is for, told to whoever opens it. */
export interface ReferenceRequest extends NamingImage {
  /** Options that the caller gave for it; where they name a file or another node, the reference is not used. */
  readonly options?: NodeOptions;
  /** `file`: a data file or extent that the format keeps beside its metadata. */
  readonly role: 'backing' | 'file';
  readonly writable: boolean;
  /** The caller has chosen the name, although it is the image that has it. */
  readonly own?: boolean;
}

/** Opens what an image names. `reference.path` is as written there; `from` is the image that names it. */
export type ResolveReference = (
  reference: BackingReference,
  from: ReferenceRequest,
) => Promise<ByteSource | PreparedNode>;

/** A node whose storage is open: how its format is to be opened over it (`nodes/open-node.ts` makes them). */
export interface PreparedNode {
  readonly source: ByteSource;
  /** The image's header, where it lies in a file of its own. */
  readonly headerFile?: ByteSource;
  /** The format's name; absent: probed. */
  readonly format?: string;
  /** A node that is no format (a protocol, a filter): what makes a layer of it. */
  readonly driver?: FormatDriver;
  /** The image that a filter stands on. */
  readonly filtered?: Image;
  /** Options for the format of that name, once it is known. Throws for values that cannot be. */
  layerOptions?(format: string): Readonly<Record<string, unknown>>;
  /** Instead of the backing image that the format names: none, or what these options say. */
  readonly backing?: NodeOptions | null;
  /** How requests of the image are treated, where that is not as they are meant. */
  readonly requests?: RequestPolicy;
  /** Options for the files that the format keeps beside its own. */
  readonly siblings?: NodeOptions;
  readonly locks?: OpenLayerOptions['locks'];
  /** The name that opens it again, as QEMU writes it. */
  readonly filename?: string;
  /** Told what was opened, and whether its chain is; throws for options that nobody understood. */
  verify?(layer: Layer, how: { readonly chain: boolean }): void;
}

export interface OpenLayerOptions {
  /** The format's name. Absent: probed by all drivers. */
  readonly format?: string;
  readonly writable?: boolean;
  /** Opens what the image names. Absent: an image that names another one is refused. */
  readonly resolve?: ResolveReference;
  /** What the image may name; default `trustedImages`. */
  readonly policy?: ReferencePolicy;
  /** A path with its symbolic links resolved, for the policy's sake. */
  readonly canonicalPath?: (path: string) => Promise<string>;
  /** As far as `info` and `check` need: no refusal for a corrupt or dirty mark. */
  readonly metadataOnly?: boolean;
  /** For the checker: what it reports itself is no error at opening. */
  readonly checking?: boolean;
  /**
   * QEMU's image locks on host files: 'take' (default), 'share' (as `-U`: beside a program that writes; for
   * reading only) or 'none'. With 'none' two images may also write one store of this program.
   */
  readonly locks?: 'take' | 'share' | 'none';
  /** With a writable raw image: its size will change, which others must then not rely on. */
  readonly resize?: boolean;
  /** The user counts on the size of the top image's file: others must not change it, raw or not (`LockRequest.keepSize`). */
  readonly keepSize?: boolean;
  /** Runtime options of the top image by QEMU's names. */
  readonly layerOptions?: Readonly<Record<string, unknown>>;
  secret?(id: string): Promise<Uint8Array>;
  /**
   * Asked for the key of an image of the chain whose options name none: the id of its secret; undefined: nobody can be
   * asked.
   */
  missingKey?(path: string): Promise<string | undefined>;
  /** Keeps the volume keys of the chain's images, or knows them from an opening before. */
  readonly keyRing?: KeyRing;
  /** The formats to choose from; default all. */
  readonly formats?: readonly FormatDriver[];
  /** Ends the opening, and afterwards refuses every request on the image but flushing and disposing, with its reason. */
  readonly signal?: AbortSignal;
}

export interface OpenImageOptions extends OpenLayerOptions {
  /** 'ignore': the backing chain stays closed, and what it holds reads as zeroes. Default 'open'. */
  readonly backing?: 'open' | 'ignore';
  /**
   * Which image of the chain is opened for writing too, besides the top one: 1 the backing image, 2 its own …
   * (`commit` writes there). The caller answers for what that does to the images above it.
   */
  readonly writableBacking?: number;
  /** True: what the top image names, the caller has just written into it, so that the policy begins below. */
  readonly ownReferences?: boolean;
  /** How many images stand above this one already, for the policy's sake. Default 0. */
  readonly depth?: number;
  /** A text that is equal for two sources of one file, by which a loop is found. Default: the source's name. */
  readonly identify?: (source: ByteSource) => string | undefined;
}

export interface OpenedLayer {
  readonly layer: Layer;
  /** The name that opens it again, where it was not opened by a plain name. */
  readonly filename?: string;
  readonly filtered?: Image;
  readonly requests?: RequestPolicy;
  /** The format was guessed, not given. */
  readonly probed: boolean;
}

/**
 * Opens an image and its backing chain. From here on the image owns `source`, also when this throws. Throws `locked` where another
 * program uses a file of it, or where another image of this one that is open writes the same store (which then stays that image's).
 *
 * An error that lies in a backing image carries `detail.depth` (1: the backing image), `detail.role`, `detail.from`
 * (the image that names it) and `detail.reference` (the name as written); its `cause` is the error itself.
 */
export async function openImage(
  top: ByteSource | PreparedNode,
  options: OpenImageOptions = {},
): Promise<Image> {
  const policy = options.policy ?? trustedImages;
  const identify = options.identify ?? nameOf;
  const opened: (OpenedLayer & { readonly node: PreparedNode })[] = [];
  const first = nodeOf(top);
  const above = options.depth ?? 0;
  const chain = options.backing !== 'ignore';
  const seen = new Set<string | undefined>([identify(first.source)]);
  try {
    opened.push({ ...(await openLayerAt(first, options, above, chain)), node: first });
    while (chain) {
      const { layer, node } = opened[opened.length - 1];
      if (node.backing === null || (!layer.backing && !node.backing)) break;
      const from: NamingImage = { name: baseOf(node.source), depth: above + opened.length - 1 };
      try {
        const backing = await openBacking(layer, node.backing, from);
        opened.push(backing);
        layer.assertBacking?.(backing.layer);
      } catch (cause) {
        throw placeInChain(cause, from, layer.backing?.path ?? '');
      }
    }
  } catch (error) {
    for (const { layer } of opened) await closeQuietly(layer);
    throw error;
  }
  let image: DiskImage | undefined;
  for (const { layer, probed, filename, filtered, requests } of opened.reverse()) {
    image = new DiskImage(layer, {
      backing: image,
      probed,
      filename,
      filtered,
      requests,
      formats: options.formats ?? formats,
      signal: options.signal,
    });
  }
  return image!;

  async function openBacking(layer: Layer, given: NodeOptions | undefined, from: NamingImage) {
    if (given && !layer.backing && !supportsBacking(layer, options.formats ?? formats)) {
      throw new DiskError('bad-argument', "Driver doesn't support backing files", {
        path: layer.source.name,
        field: 'backing',
        detail: { own: true },
      });
    }
    const reference = layer.backing ?? { path: '' };
    const writable = from.depth + 1 === options.writableBacking;
    const own = options.ownReferences && opened.length === 1;
    const request = { ...from, role: 'backing', writable, options: given, own } as const;
    const next = nodeOf(await resolveBacking(reference, request, options, policy));
    const identity = identify(next.source);
    if (identity !== undefined && seen.has(identity)) {
      await closeQuietly(next.source);
      throw new DiskError('corrupt', `The backing chain loops: '${next.source.name}' is in it already`, {
        path: next.source.name,
        field: 'backing chain',
        detail: { loop: true },
      });
    }
    seen.add(identity);
    const layerOptions = {
      ...options,
      format: next.format ?? (next.driver ? undefined : reference.format),
      writable,
      resize: writable,
      keepSize: false,
      layerOptions: undefined,
    };
    return { ...(await openLayerAt(next, layerOptions, from.depth + 1, true)), node: next };
  }
}

function nodeOf(opened: ByteSource | PreparedNode): PreparedNode {
  // Somebody who writes JavaScript may hand over a path, or a Blob.
  const given = opened as Partial<ByteSource & PreparedNode> | null | undefined;
  const source = typeof given === 'object' ? (given?.source ?? given) : undefined;
  if (typeof source?.read !== 'function' || typeof source.extent !== 'function') {
    const what =
      'An image is opened over a ByteSource (BlobSource, MemoryStore …); openImageFile opens one by its name';
    throw new DiskError('bad-argument', what);
  }
  assertSized(source as ByteSource);
  return 'source' in opened ? opened : { source: opened };
}

function nameOf({ name }: ByteSource): string {
  return name;
}

/** What relative references of an image start from. */
function baseOf(source: ByteSource): string {
  return source.referenceBase ?? source.name;
}

function supportsBacking(layer: Layer, drivers: readonly FormatDriver[]): boolean {
  const driver = drivers.find(({ name }) => name === layer.format);
  return driver?.createOptions.some(({ name }) => name === 'backing_file') ?? false;
}

/**
 * Opens the top layer alone, for those who need no guest data of the chain (`info`, `check`). Owns `source`, also
 * when it throws.
 */
export async function openLayer(
  top: ByteSource | PreparedNode,
  options: OpenLayerOptions = {},
): Promise<OpenedLayer> {
  return openLayerAt(nodeOf(top), options, 0, false);
}

/**
 * Lays an empty image of `size` guest bytes into `store`, whose former content is lost. The backing image is
 * named in `context.backing`, and not opened.
 *
 * `options` are the driver's `createOptions`, by QEMU's names. Throws `bad-argument` (`field`: its name) for one that the format does not
 * have, and for a value that it cannot have; `unsupported` for a format that cannot be created.
 */
export async function createImage(
  store: ByteStore,
  format: string,
  size: number,
  options: OptionValues = {},
  context: CreateContext & { readonly formats?: readonly FormatDriver[] } = {},
): Promise<void> {
  context.signal?.throwIfAborted();
  assertSized(store);
  const driver = requireFormat(format, context.formats ?? formats, store.name);
  if (!driver.create) {
    throw new DiskError('unsupported', `Images in ${format} format cannot be created`, {
      path: store.name,
      field: 'format',
      detail: { format },
    });
  }
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new DiskError('bad-argument', `An image cannot have ${size} bytes`, {
      path: store.name,
      field: 'size',
      detail: { size },
    });
  }
  const values = checkOptions(driver.createOptions, options, store.name);
  try {
    await driver.create(store, size, values, context);
  } catch (error) {
    throw errorIn(store.name, error);
  }
}

async function openLayerAt(
  node: PreparedNode,
  options: OpenImageOptions,
  depth: number,
  chain: boolean,
): Promise<OpenedLayer> {
  const { source, filename, filtered, requests, headerFile } = node;
  let opened: readonly AsyncDisposable[] = headerFile ? [source, headerFile] : [source];
  const claims = new StoreClaims();
  try {
    options.signal?.throwIfAborted();
    if (options.writable && typeof (source as Partial<ByteStore>).write !== 'function') {
      throw new DiskError('read-only', `'${source.name}' can only be read`, { path: source.name });
    }
    const drivers = options.formats ?? formats;
    const format = node.format ?? options.format;
    const probed = node.driver === undefined && format === undefined;
    const driver =
      node.driver ??
      (format === undefined
        ? probeFormat(await readProbeView(source), drivers)
        : requireFormat(format, drivers, source.name));
    const locking = { ...options, locks: node.locks ?? options.locks, claims };
    await takeLocks(source, node.driver ? 'raw' : driver.name, locking);
    if (headerFile) await takeLocks(headerFile, driver.name, locking);
    const layerOptions = { ...options.layerOptions, ...node.layerOptions?.(driver.name) };
    const used = { sibling: false, claims };
    const layer = await driver.open(source, openContext(node, { ...options, layerOptions }, depth, used));
    claims.releaseWith(layer);
    opened = [layer];
    if (
      node.siblings &&
      layer.format === 'qcow2' &&
      !used.sibling &&
      (options.checking || !options.metadataOnly)
    ) {
      throw new DiskError(
        'bad-argument',
        "'data-file' can only be set for images with an external data file",
        { path: source.name, field: 'data-file' },
      );
    }
    node.verify?.(layer, { chain });
    return { layer, probed, filename, filtered, requests };
  } catch (error) {
    for (const one of opened) if (!claims.isAnothers(one)) await closeQuietly(one);
    claims.release();
    throw errorIn(source.name, error);
  }
}

function openContext(
  node: PreparedNode,
  options: OpenImageOptions,
  depth: number,
  used: { sibling: boolean; readonly claims: StoreClaims },
): OpenContext {
  const own = options.ownReferences && depth === (options.depth ?? 0);
  const from = { name: baseOf(node.source), depth, role: 'file', options: node.siblings, own } as const;
  const policy = options.policy ?? trustedImages;
  return {
    writable: options.writable ?? false,
    metadataOnly: options.metadataOnly,
    checking: options.checking,
    options: options.layerOptions,
    headerFile: node.headerFile,
    secret: options.secret,
    missingKey: options.missingKey,
    keyRing: options.keyRing,
    signal: options.signal,
    async sibling(path, writable, tables = false) {
      used.sibling = true;
      const { source } = nodeOf(await resolveReference({ path }, { ...from, writable }, options, policy));
      try {
        const identify = options.identify ?? nameOf;
        const own = options.metadataOnly ? undefined : identify(node.source);
        if (own !== undefined && identify(source) === own) {
          // Guest data would lie over the metadata, and the guest could write there whatever it wants named.
          throw new DiskError('corrupt', `The image names itself as the file for its data: '${path}'`, {
            path: from.name,
            field: 'reference',
            detail: { reference: path },
          });
        }
        const locks = node.locks ?? options.locks;
        const how = { writable, resize: writable, keepSize: false, locks, claims: used.claims };
        await takeLocks(source, tables ? 'tables' : 'raw', { ...options, ...how });
        return source;
      } catch (error) {
        if (!used.claims.isAnothers(source)) await closeQuietly(source);
        throw error;
      }
    },
  };
}

/** As `resolveReference`; says what to do where the name was the format's guess, and there is no such file. */
async function resolveBacking(...request: Parameters<typeof resolveReference>) {
  try {
    return await resolveFirst(...request);
  } catch (cause) {
    const [{ advice }, { name, options }] = request;
    if (advice === undefined || namesFile(options) || !isDiskError(cause, 'not-found')) throw cause;
    throw new DiskError('not-found', advice, {
      path: name,
      field: 'backing file',
      detail: { own: true },
      cause,
    });
  }
}

/** Takes the first of a reference's names that a file has. */
async function resolveFirst(
  reference: BackingReference,
  from: ReferenceRequest,
  options: OpenLayerOptions,
  policy: ReferencePolicy,
): Promise<ByteSource | PreparedNode> {
  for (const path of [reference.path, ...(reference.alternatives ?? [])].slice(0, -1)) {
    try {
      return await resolveReference({ ...reference, path }, from, options, policy);
    } catch (error) {
      if (!isDiskError(error, 'not-found')) throw error;
    }
  }
  const path = reference.alternatives?.at(-1) ?? reference.path;
  return resolveReference({ ...reference, path }, from, options, policy);
}

/** The one gate: everything that an image names is opened here, after the policy has agreed. */
async function resolveReference(
  reference: BackingReference,
  from: ReferenceRequest,
  options: OpenLayerOptions,
  policy: ReferencePolicy,
): Promise<ByteSource | PreparedNode> {
  // What the caller names himself instead of the image is his own affair; the depth of the chain is not.
  const name = from.own || namesFile(from.options) ? undefined : reference.path;
  await assertAllowed(name, from, policy, options.canonicalPath);
  if (!options.resolve) {
    throw new DiskError(
      'unsupported',
      `The image names '${reference.path}', and nothing was given to open it with`,
      {
        path: from.name,
        field: 'reference',
        detail: { reference: reference.path },
      },
    );
  }
  const resolved = await options.resolve(reference, from);
  const { source } = nodeOf(resolved);
  const host = hostFileOf(bottomOf(source));
  if (policy.ownDirectoryOnly && !from.own && !from.options && host?.fileKind === 'block') {
    await closeQuietly(source);
    throw new DiskError('denied', `An untrusted image names '${reference.path}', which is no regular file`, {
      path: from.name,
      field: 'reference',
      detail: { reference: reference.path },
    });
  }
  return resolved;
}

/** Options that say which file it is, so that the image's own reference is not needed. */
function namesFile(options: NodeOptions | undefined): boolean {
  return options !== undefined && (options.has('reference') || options.has('file.filename'));
}

/** Closes what an error has made useless; that error is what matters. */
async function closeQuietly(opened: AsyncDisposable): Promise<void> {
  try {
    await opened[Symbol.asyncDispose]();
  } catch {
    // A failure to close adds nothing to the error that led here.
  }
}

function placeInChain(cause: unknown, from: NamingImage, reference: string): unknown {
  if (!isDiskError(cause) || cause.code === 'aborted' || cause.detail.own) return cause;
  return new DiskError(cause.code, `The backing image '${reference}' of '${from.name}' could not be opened`, {
    path: cause.path,
    offset: cause.offset,
    field: cause.field,
    detail: { ...cause.detail, role: 'backing', depth: from.depth + 1, from: from.name, reference },
    cause,
  });
}
