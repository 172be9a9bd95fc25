import { randomGuid } from '../../bytes/guid.ts';
import { alignUp } from '../../bytes/numbers.ts';
import { type ByteStore, hasFixedSize } from '../../storage/store.ts';
import type { CreateContext, OptionValues } from '../driver.ts';
import { dynamicHeaderBytes, encodeDynamicHeader } from './dynamic-header.ts';
import { unsupported } from './errors.ts';
import { encodeFooter, footerBytes, timestampOf } from './footer.ts';
import { fitGeometry, sectorBytes } from './geometry.ts';
import { parseCreateOptions } from './options.ts';

/** Guest bytes of a block, as every program makes them. */
const blockSize = 2 * 1024 * 1024;

/**
 * Lays an empty image into `store`, byte for byte as qemu-img does but for its time and identifier. Its size is rounded
 * up to one that a geometry can express, unless `force_size` is set. Throws `out-of-range` past 2040 GiB.
 */
export async function createVpc(
  store: ByteStore,
  size: number,
  values: OptionValues,
  context: CreateContext,
): Promise<void> {
  if (context.backing) {
    throw unsupported(store.name, 'backing_file', "Backing file not supported for file format 'vpc'");
  }
  const { type, forceSize } = parseCreateOptions(values);
  const fit = fitGeometry(size, forceSize);
  const footer = encodeFooter({
    ...fit,
    type,
    creator: forceSize ? 'qem2' : 'qemu',
    timestamp: timestampOf(Date.now()),
    uniqueId: randomGuid(),
  });
  if (store.size > 0 && !hasFixedSize(store)) await store.resize(0);
  if (type === 'fixed') {
    if (!hasFixedSize(store)) await store.resize(fit.size + footerBytes);
    await store.write(fit.size, footer);
    return;
  }
  const entries = Math.ceil(fit.size / blockSize);
  const tableAt = footerBytes + dynamicHeaderBytes;
  const tableBytes = alignUp(entries * 4, sectorBytes);
  const bytes = new Uint8Array(tableAt + tableBytes + footerBytes);
  bytes.set(footer);
  bytes.set(encodeDynamicHeader(entries, blockSize), footerBytes);
  bytes.fill(0xff, tableAt, tableAt + tableBytes);
  bytes.set(footer, tableAt + tableBytes);
  await store.write(0, bytes);
}
