import { DiskError } from '../errors.ts';
import type {
  BackingReference,
  CreateContext,
  FormatDriver,
  Layer,
  OpenContext,
  OptionValues,
} from '../formats/driver.ts';
import { formats } from '../formats/index.ts';
import { type ByteSource, type ByteStore, hostFileOf } from '../storage/store.ts';
import { DiskImage } from './disk-image.ts';
import type { Image } from './image.ts';
import { lockFor, sharedLockFor } from './locks.ts';
import { assertAllowed, type NamingImage, type ReferencePolicy, trustedImages } from './policy.ts';
import { probeFormat, readProbeView, requireFormat } from './probe.ts';

/** What an image's reference is for, told to whoever opens it. */
export interface ReferenceRequest extends NamingImage {
  /** `file`: a data file or extent that the format keeps beside its metadata. */
  readonly role: 'backing' | 'file';
  readonly writable: boolean;
}

/** Opens what an image names. `reference.path` is as written there; `from` is the image that names it. */
export type ResolveReference = (reference: BackingReference, from: ReferenceRequest) => Promise<ByteSource>;

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
   * reading only) or 'none'.
   */
  readonly locks?: 'take' | 'share' | 'none';
  /** With a writable raw image: its size will change, which others must then not rely on. */
  readonly resize?: boolean;
  /** Runtime options of the top image by QEMU's names. */
  readonly layerOptions?: Readonly<Record<string, unknown>>;
  secret?(id: string): Promise<Uint8Array>;
  /** The formats to choose from; default all. */
  readonly formats?: readonly FormatDriver[];
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
  /** A text that is equal for two sources of one file, by which a loop is found. Default: the source's name. */
  readonly identify?: (source: ByteSource) => string | undefined;
}

export interface OpenedLayer {
  readonly layer: Layer;
  /** The format was guessed, not given. */
  readonly probed: boolean;
}

/**
 * Opens an image and its backing chain. From here on the image owns `source`, also when this throws.
 *
 * An error that lies in a backing image carries `detail.depth` (1: the backing image), `detail.role`, `detail.from`
 * (the image that names it) and `detail.reference` (the name as written); its `cause` is the error itself.
 */
export async function openImage(source: ByteSource, options: OpenImageOptions = {}): Promise<Image> {
  const policy = options.policy ?? trustedImages;
  const identify = options.identify ?? ((opened: ByteSource) => opened.name);
  const opened: (OpenedLayer & { readonly name: string })[] = [];
  const seen = new Set<string | undefined>([identify(source)]);
  try {
    opened.push({ ...(await openLayerAt(source, options, 0)), name: source.name });
    while (options.backing !== 'ignore') {
      const { layer, name } = opened[opened.length - 1];
      if (!layer.backing) break;
      const from: NamingImage = { name, depth: opened.length - 1 };
      try {
        opened.push(await openBacking(layer.backing, from));
      } catch (cause) {
        throw placeInChain(cause, from, layer.backing.path);
      }
    }
  } catch (error) {
    for (const { layer } of opened) await closeQuietly(layer);
    throw error;
  }
  let image: DiskImage | undefined;
  for (const { layer, probed } of opened.reverse()) {
    image = new DiskImage(layer, {
      backing: image,
      probed,
      formats: options.formats ?? formats,
      signal: options.signal,
    });
  }
  return image!;

  async function openBacking(reference: BackingReference, from: NamingImage) {
    const writable = from.depth + 1 === options.writableBacking;
    const next = await resolveReference(reference, { ...from, role: 'backing', writable }, options, policy);
    const identity = identify(next);
    if (identity !== undefined && seen.has(identity)) {
      await next[Symbol.asyncDispose]();
      throw new DiskError('corrupt', `The backing chain loops: '${next.name}' is in it already`, {
        path: next.name,
        field: 'backing chain',
        detail: { loop: true },
      });
    }
    seen.add(identity);
    const layerOptions = {
      ...options,
      format: reference.format,
      writable,
      resize: writable,
      layerOptions: undefined,
    };
    return { ...(await openLayerAt(next, layerOptions, from.depth + 1)), name: next.name };
  }
}

/**
 * Opens the top layer alone, for those who need no guest data of the chain (`info`, `check`). Owns `source`, also
 * when it throws.
 */
export async function openLayer(source: ByteSource, options: OpenLayerOptions = {}): Promise<OpenedLayer> {
  return openLayerAt(source, options, 0);
}

/**
 * Lays an empty image of `size` guest bytes into `store`, whose former content is lost. The backing image is
 * named in `context.backing`, and not opened.
 */
export async function createImage(
  store: ByteStore,
  format: string,
  size: number,
  options: OptionValues = {},
  context: CreateContext & { readonly formats?: readonly FormatDriver[] } = {},
): Promise<void> {
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
  await driver.create(store, size, options, context);
}

async function openLayerAt(
  source: ByteSource,
  options: OpenLayerOptions,
  depth: number,
): Promise<OpenedLayer> {
  try {
    if (options.signal?.aborted) {
      throw new DiskError('aborted', 'The opening was stopped', {
        path: source.name,
        cause: options.signal.reason,
      });
    }
    const drivers = options.formats ?? formats;
    const probed = options.format === undefined;
    const driver = probed
      ? probeFormat(await readProbeView(source), drivers)
      : requireFormat(options.format!, drivers, source.name);
    await takeLocks(source, driver.name, options);
    const layer = await driver.open(source, openContext(source, options, depth));
    return { layer, probed };
  } catch (error) {
    await closeQuietly(source);
    throw error;
  }
}

async function takeLocks(source: ByteSource, format: string, options: OpenLayerOptions) {
  const { locks = 'take', writable = false, metadataOnly = false, resize = false } = options;
  if (locks === 'share' && writable) {
    throw new DiskError('bad-argument', 'An image can be shared with its writer only for reading', {
      path: source.name,
      field: 'force-share',
    });
  }
  const host = hostFileOf(source);
  if (!host || locks === 'none') return;
  const lock =
    locks === 'share' ? sharedLockFor(metadataOnly) : lockFor({ format, writable, metadataOnly, resize });
  await host.lock(lock);
}

function openContext(source: ByteSource, options: OpenLayerOptions, depth: number): OpenContext {
  const policy = options.policy ?? trustedImages;
  return {
    writable: options.writable ?? false,
    metadataOnly: options.metadataOnly,
    checking: options.checking,
    options: options.layerOptions,
    secret: options.secret,
    sibling: (path, writable) =>
      resolveReference({ path }, { name: source.name, depth, role: 'file', writable }, options, policy),
  };
}

/** The one gate: everything that an image names is opened here, after the policy has agreed. */
async function resolveReference(
  reference: BackingReference,
  from: ReferenceRequest,
  options: OpenLayerOptions,
  policy: ReferencePolicy,
): Promise<ByteSource> {
  await assertAllowed(reference.path, from, policy, options.canonicalPath);
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
  return options.resolve(reference, from);
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
  if (!(cause instanceof DiskError)) return cause;
  return new DiskError(cause.code, `The backing image '${reference}' of '${from.name}' could not be opened`, {
    path: cause.path,
    offset: cause.offset,
    field: cause.field,
    detail: { ...cause.detail, role: 'backing', depth: from.depth + 1, from: from.name, reference },
    cause,
  });
}
