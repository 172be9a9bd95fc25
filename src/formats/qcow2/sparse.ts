import { isDiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import { lowOffsetMask, two32 } from './constants.ts';
import { clusterSizeOf, type Qcow2Header, refcountBlockEntriesOf } from './header.ts';
import { refcountAccess } from './refcount-width.ts';

/**
 * Whether the image looks preallocated without its space being used: more clusters counted than the host spends
 * bytes on. Its data clusters may then be holes of the file. QEMU decides so, and by these thresholds; where refcounts cannot be read it does not look
 * preallocated, since what is read of the image needs none of them.
 */
export async function looksPreallocated(source: ByteSource, header: Qcow2Header): Promise<boolean> {
  const allocated = await source.allocated();
  if (allocated === undefined) return false;
  const clusterSize = clusterSizeOf(header);
  const used = Math.floor(allocated / clusterSize);
  const threshold = Math.max(Math.floor((used * 10) / 9), used + 2);
  const end = Math.ceil(source.size / clusterSize);
  if (end < threshold) return false;
  try {
    return (await countClusters(source, header, end, threshold)) >= threshold;
  } catch (error) {
    if (!isDiskError(error, 'io')) throw error;
    return false;
  }
}

/** Counts clusters before `end` whose refcount is not zero, up to `limit`. */
async function countClusters(
  source: ByteSource,
  header: Qcow2Header,
  end: number,
  limit: number,
): Promise<number> {
  const clusterSize = clusterSizeOf(header);
  const entries = refcountBlockEntriesOf(header);
  const access = refcountAccess(header.refcountOrder);
  const tableEntries = (header.refcountTableClusters * clusterSize) / 8;
  const blocks = Math.min(Math.ceil(end / entries), tableEntries);
  const table = new DataView(new ArrayBuffer(blocks * 8));
  await readWithin(source, header.refcountTableOffset, new Uint8Array(table.buffer));
  const block = new Uint8Array(clusterSize);
  const view = new DataView(block.buffer);
  let count = 0;
  for (let index = 0; index < blocks && count < limit; index++) {
    const at = table.getUint32(index * 8) * two32 + ((table.getUint32(index * 8 + 4) & lowOffsetMask) >>> 0);
    if (at === 0) continue;
    await readWithin(source, at, block);
    const last = Math.min(entries, end - index * entries);
    for (let cluster = 0; cluster < last; cluster++) if (access.get(view, cluster) !== 0) count++;
  }
  return count;
}

async function readWithin(source: ByteSource, at: number, into: Uint8Array): Promise<void> {
  const there = Math.max(0, Math.min(into.length, source.size - at));
  if (there > 0) await source.read(at, into.subarray(0, there));
  into.fill(0, there);
}
