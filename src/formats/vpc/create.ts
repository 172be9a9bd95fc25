import { randomGuid } from '../../bytes/guid.ts';
import { alignUp } from '../../bytes/numbers.ts';
import { type ByteStore, hasFixedSize } from '../../storage/store.ts';
import type { CreateContext, OptionValues } from '../driver.ts';
import { dynamicHeaderBytes, encodeDynamicHeader } from './dynamic-header.ts';
import { encodeFooter, footerBytes, timestampOf } from './footer.ts';
import { fitGeometry, sectorBytes } from './geometry.ts';
import { type NewParent, readNewParent } from './new-parent.ts';
import { parseCreateOptions, type VpcCreateOptions } from './options.ts';

/** Guest bytes of a block, as every program makes them. */
const blockSize = 2 * 1024 * 1024;

/**
 * Lays an empty image into `store`, byte for byte as qemu-img does but for its time and identifier; over a backing image,
 * a differencing one. Its size is rounded up to one that a geometry can express, unless `force_size` is set or it is the
 * parent's. Throws `out-of-range` past 2040 GiB, `bad-argument` for a parent that is no VHD.
 */
export async function createVpc(
  store: ByteStore,
  size: number,
  values: OptionValues,
  context: CreateContext,
): Promise<void> {
  const options = parseCreateOptions(values, context.backing !== undefined);
  const parent = context.backing ? await readNewParent(store.name, context) : undefined;
  const { creator, ...fit } = sizeOf(size, options, parent);
  const footer = encodeFooter({
    ...fit,
    type: parent ? 'differencing' : options.type,
    creator,
    timestamp: timestampOf(Date.now()),
    uniqueId: randomGuid(),
  });
  if (store.size > 0 && !hasFixedSize(store)) await store.resize(0);
  if (options.type === 'fixed') {
    if (!hasFixedSize(store)) await store.resize(fit.size + footerBytes);
    await store.write(fit.size, footer);
    return;
  }
  const entries = Math.ceil(fit.size / blockSize);
  const tableAt = footerBytes + dynamicHeaderBytes;
  const tableEnd = tableAt + alignUp(entries * 4, sectorBytes);
  const placed = parent?.place(tableEnd);
  const end = tableEnd + (placed?.paths.length ?? 0);
  const bytes = new Uint8Array(end + footerBytes);
  bytes.set(footer);
  bytes.set(encodeDynamicHeader(entries, blockSize, placed?.fields), footerBytes);
  bytes.fill(0xff, tableAt, tableEnd);
  if (placed) bytes.set(placed.paths, tableEnd);
  bytes.set(footer, end);
  await store.write(0, bytes);
}

function sizeOf(size: number, { forceSize }: VpcCreateOptions, parent: NewParent | undefined) {
  // By size and by geometry alike, a child is as large as its parent to whoever reads both.
  if (parent?.size === size) return { size, geometry: parent.geometry, creator: parent.creator };
  return { ...fitGeometry(size, forceSize), creator: forceSize ? 'qem2' : 'qemu' };
}
