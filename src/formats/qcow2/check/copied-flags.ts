import { DiskError, isDiskError } from '../../../errors.ts';
import * as c from '../constants.ts';
import { type CheckedImage, hex64, join64 } from './checked-image.ts';
import type { StoredRefcounts } from './stored-refcounts.ts';
import type { Tally } from './tally.ts';

/**
 * Checks the COPIED flag (bit 63) of every entry of the active L1 table and its L2 tables: set exactly where the
 * refcount is one. With `repair` sets or clears it; durable on return.
 */
export async function checkCopiedFlags(
  image: CheckedImage,
  stored: StoredRefcounts,
  tally: Tally,
  repair: boolean,
  mayWrite: (offset: number, length: number) => boolean,
): Promise<void> {
  const { l1TableOffset, l1Size } = image.header;
  const { clusterSize, entryBytes, l2Entries, hasDataFile } = image;
  const verb = repair ? 'Repairing' : 'ERROR';
  const l1 = image.tableBuffer(Math.max(c.entryBytes, l1Size * c.entryBytes));
  await image.read(l1TableOffset, l1.bytes);
  const table = image.tableBuffer();
  let changed = false;
  let blockIndex = -1;
  let block: Uint8Array | undefined;

  for (let index = 0; index < l1Size; index++) {
    const high = l1.view.getUint32(index * 8);
    const low = l1.view.getUint32(index * 8 + 4);
    const l2Offset = join64(high & c.highOffsetMask, low & c.lowOffsetMask);
    if (l2Offset === 0) continue;
    const cluster = Math.floor(l2Offset / clusterSize);
    if (!(await haveBlockOf(cluster))) continue;
    if (isOne(cluster) !== (high & c.highCopied) < 0) {
      tally.corruption(
        `${verb} OFLAG_COPIED L2 cluster: l1_index=${index} l1_entry=${hex64(high, low)} refcount=${shown(cluster)}`,
        l2Offset,
      );
      if (repair) {
        l1.view.setUint32(index * 8, withCopied(high, isOne(cluster)));
        await write(l1TableOffset + index * 8, l1.bytes.subarray(index * 8, index * 8 + 8));
        tally.fixedCorruption();
      }
    }
    if (!image.isPastEnd(l2Offset)) await checkTable(l2Offset);
  }
  if (changed) await image.store.flush();

  async function checkTable(l2Offset: number): Promise<void> {
    const { view, bytes } = table;
    try {
      await image.read(l2Offset, bytes);
    } catch (cause) {
      tally.checkError('ERROR: Could not read L2 table: Input/output error', l2Offset);
      throw cause;
    }
    let wrong = 0;
    for (let index = 0; index < l2Entries; index++) {
      const at = index * entryBytes;
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if ((high | low) === 0 || (high & c.highCompressed) !== 0) continue;
      const offset = join64(high & c.highOffsetMask, low & c.lowOffsetMask);
      if (offset === 0 && !(hasDataFile && (high & c.highCopied) !== 0)) continue;
      const cluster = Math.floor(offset / clusterSize);
      if (!hasDataFile) {
        const wanted = Math.floor(cluster / stored.blockEntries);
        if (wanted !== blockIndex && !(await haveBlockOf(cluster))) continue;
      }
      const one = hasDataFile || isOne(cluster);
      if (one === (high & c.highCopied) < 0) continue;
      tally.corruption(
        `${verb} OFLAG_COPIED data cluster: l2_entry=${hex64(high, low)} refcount=${hasDataFile ? 1 : shown(cluster)}`,
        offset,
      );
      if (!repair) continue;
      view.setUint32(at, withCopied(high, one));
      wrong++;
    }
    if (wrong === 0) return;
    if (!mayWrite(l2Offset, clusterSize)) {
      tally.checkError(
        'ERROR: Could not write L2 table; metadata overlap check failed: Input/output error',
        l2Offset,
      );
      throw new DiskError('corrupt', 'An L2 table shares its cluster with other metadata', {
        path: image.source.name,
        offset: l2Offset,
        detail: { errno: 'EIO' },
      });
    }
    await write(l2Offset, bytes);
    for (; wrong > 0; wrong--) tally.fixedCorruption();
  }

  async function write(offset: number, bytes: Uint8Array): Promise<void> {
    await image.store.write(offset, bytes);
    changed = true;
  }

  /** False: the block cannot be read, which has been reported when refcounts were compared. */
  async function haveBlockOf(cluster: number): Promise<boolean> {
    const wanted = Math.floor(cluster / stored.blockEntries);
    if (wanted === blockIndex) return true;
    try {
      block = await stored.block(wanted);
      blockIndex = wanted;
      return true;
    } catch (error) {
      if (!isDiskError(error)) throw error;
      blockIndex = -1;
      return false;
    }
  }

  function isOne(cluster: number): boolean {
    return block !== undefined && stored.value(block, cluster % stored.blockEntries) === 1;
  }

  function shown(cluster: number): bigint {
    return block ? stored.exact(block, cluster % stored.blockEntries) : 0n;
  }
}

function withCopied(high: number, set: boolean): number {
  return (set ? high | c.highCopied : high & ~c.highCopied) >>> 0;
}
