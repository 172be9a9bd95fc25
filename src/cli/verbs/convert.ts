import { alignUp } from '../../bytes/numbers.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import { isWritable } from '../../formats/driver.ts';
import { findFormat } from '../../formats/index.ts';
import { type Image, unfiltered } from '../../image/image.ts';
import { PackingStore } from '../../image/packing-store.ts';
import { requireFile } from '../../image/reference.ts';
import { supportsBitmaps } from '../../operations/bitmap.ts';
import { convertImages } from '../../operations/convert.ts';
import { strerror } from '../../platform/errno.ts';
import { openFileStore } from '../../storage/file.ts';
import { compressionIn } from '../../storage/file-unpacked.ts';
import { isCacheMode } from '../cache-mode.ts';
import type { CliContext, Command } from '../context.ts';
import { type ConvertArguments, checkOperands, readConvertArguments } from '../convert-arguments.ts';
import { copyAllBitmaps, refuseBrokenBitmaps } from '../convert-bitmaps.ts';
import {
  type ConvertTarget,
  createConvertTarget,
  holdStill,
  openConvertTarget,
  planTarget,
  type TargetPlan,
} from '../convert-target.ts';
import { reportCorruption } from '../corruption.ts';
import { CliFailure } from '../failure.ts';
import { couldNotOpen, warn } from '../messages.ts';
import { openForVerb } from '../open-image.ts';
import { wantsHelp } from '../options.ts';
import { type PercentProgress, qemuProgress } from '../progress.ts';
import { loadSnapshot } from '../snapshot-argument.ts';
import { refuseSourceItself } from '../source-itself.ts';
import { openUnpacked } from '../unpacked-image.ts';
import { helpFor } from './create.ts';

const sectorBytes = 512;

/** `convert`: copies what a guest reads from one image, or several after each other, into another. */
export const run: Command = async (args, context) => {
  const wish = readConvertArguments(args, context);
  if (wish.optionList !== undefined && wantsHelp(wish.optionList)) {
    const target = wish.operands.length > 1 ? wish.operands.at(-1) : undefined;
    context.stdout.write(helpFor(wish.targetFormat, target));
    return 0;
  }
  checkOperands(wish);
  const progress = qemuProgress(context, wish.progressStyle ?? (wish.progress && !wish.quiet), {
    onDemand: true,
  });
  try {
    await using sources = new Sources();
    await sources.open(context, wish);
    await convert(context, sources.images, wish, progress);
    progress.reach(100);
  } finally {
    progress.end();
  }
  return 0;
};

/** The images to read, closed together. */
class Sources implements AsyncDisposable {
  readonly images: Image[] = [];

  async open(context: CliContext, wish: ConvertArguments): Promise<void> {
    for (const path of wish.operands.slice(0, -1)) {
      if (wish.decompress) {
        this.images.push(await openPacked(context, path, wish));
        continue;
      }
      const image = await openForVerb(context, path, {
        images: wish.images,
        format: wish.sourceFormat,
        locks: wish.share ? 'share' : 'take',
        signal: context.signal,
      });
      this.images.push(image);
      if (wish.share) continue;
      try {
        await holdStill(image);
      } catch (error) {
        throw couldNotOpen(path, error);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const image of this.images) await image[Symbol.asyncDispose]();
  }
}

async function openPacked(context: CliContext, path: string, wish: ConvertArguments): Promise<Image> {
  try {
    const file = await openFileStore(requireFile(path));
    const compression = await compressionIn(file);
    if (compression) {
      return await openUnpacked(file, compression, { format: wish.sourceFormat, signal: context.signal });
    }
    await file[Symbol.asyncDispose]();
    throw new DiskError('bad-argument', 'The file is not packed by gzip, xz, zstd or bzip2', { path });
  } catch (error) {
    throw couldNotOpen(path, error);
  }
}

async function convert(
  context: CliContext,
  sources: readonly Image[],
  wish: ConvertArguments,
  progress: PercentProgress,
): Promise<void> {
  const path = wish.operands.at(-1)!;
  if (wish.snapshot !== undefined) await loadSnapshot(sources, wish.snapshot);
  const plan = wish.intoExisting ? undefined : planTarget(context, path, wish);
  const hasBacking = plan ? plan.backing !== undefined : wish.backingFile !== undefined;
  checkWishes(sources, wish, plan, hasBacking);
  if (plan) refuseSourceItself(sources, path, wish);
  if (wish.bitmaps && !wish.skipBrokenBitmaps) await refuseBrokenBitmaps(sources[0]);
  const size = sources.reduce((sum, image) => sum + alignUp(image.size, sectorBytes), 0);
  await using target = plan
    ? await createConvertTarget(context, path, size, plan, wish)
    : await openConvertTarget(context, path, wish);
  const { layer } = unfiltered(target.image);
  const packs = findFormat(layer.format)?.canPack && !(target.image.layer.source instanceof PackingStore);
  if (wish.compress && !packs) throw notCompressible();
  if (target.image.size < size) throw new CliFailure('output file is smaller than input file');
  // A flat image of a format that can pack otherwise: QEMU finds that it has no clusters.
  if (wish.compress && isWritable(layer) && !layer.pack) throw new CliFailure('invalid cluster size');
  if (wish.bitmaps && !supportsBitmaps(target.image)) {
    throw new CliFailure(`Format driver '${target.image.layer.format}' does not support bitmaps`);
  }
  await copy(context, sources, target, wish, { progress, hasBacking, isNew: plan !== undefined });
  if (wish.bitmaps) await copyAllBitmaps(context, sources[0], target.image);
  await target.finish();
}

/** Refuses what only shows when sources and target are known, in qemu-img's order. */
function checkWishes(
  sources: readonly Image[],
  wish: ConvertArguments,
  plan: TargetPlan | undefined,
  hasBacking: boolean,
): void {
  if (wish.targetIsZero && hasBacking) {
    throw new CliFailure('Cannot use --target-is-zero when the destination image has a backing file');
  }
  if (sources.length > 1 && hasBacking) {
    throw new CliFailure(
      'Having a backing file for the target makes no sense when concatenating multiple input images',
    );
  }
  if (plan?.backing && plan.backing.format === undefined) {
    throw new CliFailure('Use of backing file requires explicit backing format');
  }
  if (plan?.options.values['detached-header'] === true) {
    throw new CliFailure('A detached header is made by create; convert -n writes into its payload');
  }
  if (wish.compress && plan) {
    if (!plan.driver.canPack) throw notCompressible();
    const shown = (name: string) => plan.options.shown.get(name);
    if (plan.options.values.encryption === true || shown('encrypt.format') !== undefined) {
      throw new CliFailure('Compression and encryption not supported at the same time');
    }
    if ((shown('preallocation') ?? 'off') !== 'off') {
      throw new CliFailure('Compression and preallocation not supported at the same time');
    }
  }
  if (wish.bitmaps) {
    if (sources.length > 1) throw new CliFailure('Copying bitmaps only possible with single source');
    if (!supportsBitmaps(sources[0])) throw new CliFailure('Source lacks bitmap support');
  }
  if (!isCacheMode(wish.cache)) throw new CliFailure(`Invalid cache option: ${wish.cache}`);
}

function notCompressible(): CliFailure {
  return new CliFailure('Compression not supported for this file format');
}

async function copy(
  context: CliContext,
  sources: readonly Image[],
  target: ConvertTarget,
  wish: ConvertArguments,
  how: { readonly progress: PercentProgress; readonly hasBacking: boolean; readonly isNew: boolean },
): Promise<void> {
  let isFirst = true;
  const backingBytes = how.isNew ? target.image.backing?.size : undefined;
  try {
    await convertImages(sources, target.image, {
      sparseBytes: wish.sparseBytes,
      targetIsZero: target.isZero && (wish.sparseBytes !== 0 || !how.isNew),
      targetBacking: how.hasBacking
        ? { bytes: backingBytes && alignUp(backingBytes, sectorBytes) }
        : undefined,
      packed: wish.compress,
      // What is unpacked as it is read comes from front to end.
      requests: wish.decompress ? 1 : wish.requests,
      unordered: wish.unordered,
      verbatim: wish.verbatim || undefined,
      shareBlocks: wish.sparseBytes === undefined,
      bytesPerSecond: wish.bytesPerSecond,
      signal: context.signal,
      onProgress: (done, total) => how.progress.update(done, total),
      // To count is to look at all of the map: what is there already stays as it is where that fails, as with qemu-img.
      isWatched: () => how.progress.watched || !how.isNew,
      onUnreadable: !wish.salvage
        ? undefined
        : (failure) => {
            if (isFirst) reportCorruption(context, failure.error);
            isFirst = false;
            if (!wish.quiet) tellSalvage(context, failure);
          },
    });
  } catch (error) {
    if (!isDiskError(error) || error.detail.step === undefined) throw error;
    reportCorruption(context, error);
    throw new CliFailure(`error while ${doing(error)} ${error.detail.offset}: ${reason(error)}`, {
      cause: error,
    });
  }
}

function tellSalvage(
  context: CliContext,
  { step, offset, error }: { step: 'state' | 'read'; offset: number; error: unknown },
): void {
  const what = step === 'state' ? 'block status at offset' : 'offset';
  warn(context, `error while reading ${what} ${offset}: ${reason(error)}`);
}

function doing(error: DiskError): string {
  if (error.detail.step === 'state') return 'reading block status at offset';
  return error.detail.step === 'read' ? 'reading at byte' : 'writing at byte';
}

function reason(error: unknown): string {
  const errno = isDiskError(error) ? error.detail.errno : undefined;
  if (typeof errno === 'string') return strerror(errno);
  // What is not built is said in its own words: no reason of the system's would help.
  if (isDiskError(error, 'unsupported'))
    return isDiskError(error.cause) ? error.cause.message : error.message;
  return strerror('EIO');
}
