import { pageAligned } from '../bytes/page-buffer.ts';
import { DiskError } from '../errors.ts';
import { type AmendContext, type FormatDriver, isWritable, type OptionValues } from '../formats/driver.ts';
import type { Image } from '../image/image.ts';
import type { ByteStore } from '../storage/store.ts';
import { resizeImage } from './resize.ts';

export interface AmendOptions extends Pick<AmendContext, 'force' | 'secret'> {
  readonly signal?: AbortSignal;
}

const writeBytes = 1024 * 1024;

/**
 * Changes options of an existing image. `open` opens it for writing with its chain; it is called again after each step
 * that changes the file underneath. A stop between two steps leaves the first ones done.
 *
 * Throws what the format's `amend` throws; `unsupported` (field `amend`) where it has none.
 */
export async function amendImage(
  open: () => Promise<Image>,
  driver: FormatDriver,
  values: OptionValues,
  options: AmendOptions = {},
): Promise<void> {
  const { size, ...rest } = values;
  const { compat } = rest;
  const lower = compat === '0.10' || compat === 'v2';
  const { force, secret, signal } = options;
  if (size === undefined && !lower) return amend(open, driver, rest, { force, secret, signal });
  // All that may be refused is looked at, and what needs version 3 done, before the size changes; version 2 comes last.
  const newSize = typeof size === 'number' && size > 0 ? size : undefined;
  await amend(open, driver, rest, { keepVersion: lower, size: newSize, force, secret, signal });
  if (newSize !== undefined) {
    await using image = await open();
    await resizeImage(image, newSize);
  }
  if (!lower) return;
  {
    await using image = await open();
    await expandZeroes(image, options.signal);
  }
  await amend(open, driver, { compat });
}

async function amend(
  open: () => Promise<Image>,
  driver: FormatDriver,
  values: OptionValues,
  how: AmendContext = {},
): Promise<void> {
  await using image = await open();
  const { layer } = image;
  if (!driver.amend || !isWritable(layer)) {
    throw new DiskError('unsupported', `Format driver '${driver.name}' does not support option amendment`, {
      path: layer.source.name,
      field: 'amend',
    });
  }
  await driver.amend(layer.source as ByteStore, values, {
    ...how,
    keySecret: layer.keySecret,
    headerFile: layer.headerFile as ByteStore | undefined,
  });
}

/** Turns zeroes by the layer's decree into stored zeroes, or into nothing where there is no backing image. */
async function expandZeroes(image: Image, signal: AbortSignal | undefined): Promise<void> {
  const zeroes = pageAligned(writeBytes);
  const { layer } = image;
  if (!isWritable(layer)) return;
  for await (const page of image.runs({ depth: 'layer' })) {
    for (const { kind, offset, length } of page) {
      if (kind !== 'zero') continue;
      signal?.throwIfAborted();
      if (layer.backing === undefined && (await layer.mark('hole', offset, length, { discard: true })))
        continue;
      for (let at = offset; at < offset + length; at += writeBytes) {
        await image.write(at, zeroes.subarray(0, Math.min(writeBytes, offset + length - at)));
      }
    }
  }
  await image.flush();
  // Without a backing image they read the same as holes, and become some.
  if (layer.backing !== undefined) await layer.storeSnapshotZeroes?.(signal);
}
