import { fstatSync, statSync } from 'node:fs';
import type { FormatDriver, OptionValues } from '../formats/driver.ts';
import type { Image } from '../image/image.ts';
import { takesNewImages } from '../image/nodes/drivers/index.ts';
import { createImage, openImage } from '../image/open.ts';
import { parseReference, requireFile } from '../image/reference.ts';
import { canonicalPath, createImageTarget, type ImageTarget } from '../node.ts';
import { identityOf } from '../platform/file-facts.ts';
import { FileStore } from '../storage/file.ts';
import { sweepFor } from '../storage/file-target.ts';
import { allPermissions, Permission } from '../storage/image-lock.ts';
import { bottomOf, hostFileOf } from '../storage/store.ts';
import type { CliContext } from './context.ts';
import type { ConvertArguments } from './convert-arguments.ts';
import { CliFailure } from './failure.ts';
import { couldNotOpen, creatableFormat, explain, unknownProtocol } from './messages.ts';
import { askingForNew } from './missing-key.ts';
import { openForVerb } from './open-image.ts';
import { type CreationOptions, creationOptions, parseOptions } from './options.ts';
import { refuseOversize } from './oversize.ts';
import { checkFileName, checkFileOptions, driverOptions, worded } from './verbs/create.ts';

/** How the target is to be made, found out before anything is written. */
export interface TargetPlan {
  readonly driver: FormatDriver;
  readonly options: CreationOptions;
  /** The target's backing file as it will be written there. */
  readonly backing?: { readonly path: string; readonly format?: string };
}

/** A target open for writing. `commit` after the image is closed puts it in its place. */
export interface ConvertTarget extends AsyncDisposable {
  readonly image: Image;
  /** It reads as zeroes where nothing is written. */
  readonly isZero: boolean;
  /** Closes the image and lets it take its name. */
  finish(): Promise<void>;
}

/** Understands the creation options. Throws in qemu-img's words. */
export function planTarget(context: CliContext, path: string, wish: ConvertArguments): TargetPlan {
  const driver = creatableFormat(wish.targetFormat);
  if (parseReference(path).kind !== 'file' && !takesNewImages(path))
    throw new CliFailure(unknownProtocol(path));
  const options = parseOptions(context, creationOptions(driver), wish.optionList ?? '');
  const knows = (name: string) => driver.createOptions.some((option) => option.name === name);
  if (wish.backingFile !== undefined) {
    if (!knows('backing_file')) {
      throw new CliFailure(`Backing file not supported for file format '${wish.targetFormat}'`);
    }
    options.shown.set('backing_file', wish.backingFile);
  }
  if (wish.backingFormat !== undefined) {
    if (!knows('backing_fmt')) {
      throw new CliFailure(`Backing file format not supported for file format '${wish.targetFormat}'`);
    }
    options.shown.set('backing_fmt', wish.backingFormat);
  }
  const backing = options.shown.get('backing_file');
  return {
    driver,
    options,
    backing: backing === undefined ? undefined : { path: backing, format: options.shown.get('backing_fmt') },
  };
}

/** Makes the target, aside where that can be, and opens it. */
export async function createConvertTarget(
  context: CliContext,
  path: string,
  size: number,
  plan: TargetPlan,
  wish: ConvertArguments,
): Promise<ConvertTarget> {
  const { driver, options, backing } = plan;
  let target: ImageTarget | undefined;
  let keys: OptionValues;
  try {
    refuseOversize(driver.name, BigInt(size), options);
    checkFileOptions(driver, options);
    checkFileName(path);
    target = await createImageTarget(path, {
      corruptDependents: wish.force,
      foreground: writesInForeground(wish),
      writeBehind: isDurable(wish),
      unflushed: true,
      emptyLate: true,
    });
    if (target.aside) sweepFor(requireFile(path), true);
    context.signal.throwIfAborted();
    const { store } = target;
    const making = { ...target.context(backing), secret: wish.images.opening.secret, signal: context.signal };
    const create = async (typed: OptionValues) => {
      await createImage(store, driver.name, size, { ...driverOptions(driver, options), ...typed }, making);
      return { ...keySecrets(options), ...typed };
    };
    keys = await askingForNew(context, wish.images, path, create);
  } catch (error) {
    // What went wrong first is what is told, whatever closing a device tells then.
    await Promise.allSettled([target?.[Symbol.asyncDispose]()]);
    if (context.signal.aborted) throw error;
    const { text, hint } = explain(worded(error, path, driver, options));
    throw new CliFailure(`${path}: error while converting ${wish.targetFormat}: ${text}`, {
      hint,
      cause: error,
    });
  }
  try {
    return await openTarget(path, plan.driver, keys, target, wish);
  } catch (error) {
    await Promise.allSettled([target[Symbol.asyncDispose]()]);
    throw couldNotOpen(path, error);
  }
}

async function openTarget(
  path: string,
  driver: FormatDriver,
  keys: OptionValues,
  target: ImageTarget,
  wish: ConvertArguments,
): Promise<ConvertTarget> {
  // The target will have the name that an old file may have still: such a file cannot be its backing file.
  const oldFile = takesNewImages(path)
    ? undefined
    : statSync(requireFile(path), { throwIfNoEntry: false, bigint: true });
  const image = await openImage(target.store, {
    format: driver.name,
    writable: true,
    layerOptions: keys,
    secret: wish.images.opening.secret,
    policy: wish.images.opening.policy,
    ownReferences: true,
    canonicalPath,
    resolve: target.resolver(wish.images.opening),
    identify: (source) => {
      if (source === target.store) return oldFile && identityOf(oldFile);
      return source instanceof FileStore ? identityOf(fstatSync(source.fd, { bigint: true })) : source.name;
    },
  });
  const isZero =
    image.backing === undefined &&
    !driver.startsUndefined &&
    (driver.name !== 'raw' || hostFileOf(target.store)?.fileKind === 'regular');
  return {
    image,
    isZero,
    async finish() {
      await image[Symbol.asyncDispose]();
      // One flush at the end is enough for a file that takes its name only then.
      // What takes an old one's place is durable in any case: a full disk or a cut must cost neither of them.
      await target.commit({ durable: isDurable(wish) || (target.aside && target.replaces) });
    },
    async [Symbol.asyncDispose]() {
      // After `finish` there is nothing left to close; before it, what was written is thrown away anyhow.
      await Promise.allSettled([image[Symbol.asyncDispose]()]);
      await target[Symbol.asyncDispose]();
    },
  };
}

function isDurable({ cache }: ConvertArguments): boolean {
  return cache !== 'unsafe';
}

/** A new image is opened by the secret that it was made with. */
function keySecrets({ values }: CreationOptions): OptionValues {
  return Object.fromEntries(Object.entries(values).filter(([name]) => name.endsWith('key-secret')));
}

/** Who asks for many requests at once wants them to wait for the disk together. */
function writesInForeground({ requests, unordered }: ConvertArguments): boolean {
  return requests === undefined && !unordered;
}

/** Opens a target that is there already (`-n`). It is written in place. */
export async function openConvertTarget(
  context: CliContext,
  path: string,
  wish: ConvertArguments,
): Promise<ConvertTarget> {
  const image = await openForVerb(context, path, {
    images: wish.images,
    imageOptions: wish.targetImageOptions,
    format: wish.targetImageOptions && !wish.targetFormatGiven ? undefined : wish.targetFormat,
    writable: true,
    foreground: writesInForeground(wish),
    writeBehind: isDurable(wish),
    unflushed: !isDurable(wish),
    discards: wish.sparseBytes !== 0,
    corruptDependents: wish.force,
  });
  let open = true;
  const close = async () => {
    if (!open) return;
    open = false;
    await image[Symbol.asyncDispose]();
  };
  return { image, isZero: wish.targetIsZero, finish: close, [Symbol.asyncDispose]: close };
}

/** A source that is converted may not change meanwhile, whatever its format: others may read it only. */
export async function holdStill(image: Image): Promise<void> {
  await hostFileOf(bottomOf(image.layer.source))?.lock({
    hold: Permission.consistentRead,
    shared: allPermissions & ~(Permission.write | Permission.resize),
  });
}
