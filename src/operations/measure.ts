import { alignUp } from '../bytes/numbers.ts';
import { DiskError, errorIn } from '../errors.ts';
import type {
  FormatDriver,
  MeasuredBitmap,
  Measurement,
  MeasureRequest,
  OptionValues,
} from '../formats/driver.ts';
import type { Image } from '../image/image.ts';
import { ChainStatus } from './block-status.ts';

/**
 * How large a file an image of `driver`'s format would take that gets the content of `source` (an image with its chain,
 * or a size in bytes). Throws `unsupported` (field `measure`) for a format that cannot say, and `bad-argument`.
 */
export async function measureImage(
  driver: FormatDriver,
  source: Image | bigint,
  options: OptionValues = {},
  context: Pick<MeasureRequest, 'secret'> & { readonly signal?: AbortSignal } = {},
): Promise<Measurement> {
  context.signal?.throwIfAborted();
  const path = typeof source === 'bigint' ? undefined : source.layer.source.name;
  if (!driver.measure) {
    throw new DiskError('unsupported', `Block driver '${driver.name}' does not support size measurement`, {
      path,
      field: 'measure',
      detail: { format: driver.name },
    });
  }
  const { secret, signal } = context;
  if (typeof source === 'bigint') {
    if (source < 0n) {
      throw new DiskError('bad-argument', `An image cannot have ${source} bytes`, { field: 'size' });
    }
    return driver.measure({ secret, size: source, options });
  }
  try {
    const content = await contentOf(source, signal);
    return await driver.measure({ secret, size: BigInt(source.size), options, content });
  } catch (error) {
    throw errorIn(source.layer.source.name, error);
  }
}

async function contentOf(image: Image, signal: AbortSignal | undefined): Promise<MeasureRequest['content']> {
  const { formatSpecific } = await image.layer.details();
  const holdsBitmaps = formatSpecific?.type === 'qcow2' && formatSpecific.data.compat !== '0.10';
  const listed = (formatSpecific?.data.bitmaps ?? []) as readonly (MeasuredBitmap & {
    readonly flags: readonly string[];
  })[];
  return {
    used: (grain) => usedBytes(image, grain, signal),
    // A bitmap that is in use was not stored at the end: it cannot be copied.
    bitmaps: holdsBitmaps ? listed.filter(({ flags }) => !flags.includes('in-use')) : undefined,
  };
}

/** Guest bytes of the units of `grain` bytes in which anything is stored that is not known to be zero. */
async function usedBytes(image: Image, grain: number, signal: AbortSignal | undefined): Promise<number> {
  const chain = await ChainStatus.of(image, signal);
  let used = 0;
  for (let offset = 0; offset < image.size; ) {
    const { length, zero, data, allocated } = await chain.above(offset, image.size - offset);
    let end = offset + length;
    if (!zero && data && allocated) {
      end = alignUp(end, grain);
      used += end - (offset - (offset % grain));
    }
    offset = end;
  }
  return used;
}
