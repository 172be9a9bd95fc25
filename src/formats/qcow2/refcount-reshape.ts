import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import { CheckedImage } from './check/checked-image.ts';
import { rebuildRefcounts } from './check/rebuild.ts';
import { ReferenceCounts } from './check/reference-counts.ts';
import { hex } from './errors.ts';
import { flushImage } from './flush.ts';
import { writeHeaderFields } from './header-write.ts';
import type { WritableQcow2Layer } from './layer.ts';
import { MetadataMap } from './metadata-map.ts';
import { openQcow2 } from './open.ts';
import { Refcounts } from './refcounts.ts';
import type { Qcow2Writer } from './writer.ts';

/** Wider counts than this are not kept while they move; no image has so many references to a cluster. */
const countBits = 32;

/**
 * Gives refcounts another width (`order`: log2 of the bits), durably: new blocks and a new table are written where
 * nothing lies, one header write switches to them, and then the old ones are given back. Throws `unsupported` where a
 * count does not fit.
 */
export async function reshapeRefcounts(store: ByteStore, order: number): Promise<void> {
  const image = await CheckedImage.of(store, store);
  const { header, clusterSize } = image;
  const { counts, blocks } = await readCounts(store, image, order);
  image.header = { ...header, refcountOrder: order };
  await rebuildRefcounts(image, counts, (refcountTableOffset, refcountTableClusters) =>
    writeHeaderFields(store, { ...header, refcountTableOffset, refcountTableClusters, refcountOrder: order }),
  );
  // No guest data is touched: neither a data file nor a key is asked for.
  const layer = (await openQcow2(store, { writable: true, metadataOnly: true })) as WritableQcow2Layer;
  await layer.change(async (writer: Qcow2Writer) => {
    await writer.prepare();
    for (const block of blocks) writer.frees.add(block / clusterSize, 1, true);
    writer.frees.add(header.refcountTableOffset / clusterSize, header.refcountTableClusters, true);
    await flushImage(writer);
  });
  await layer.finish();
}

/** All refcounts of the image, and where their blocks lie. */
async function readCounts(store: ByteStore, image: CheckedImage, order: number) {
  const { header } = image;
  const refcounts = await Refcounts.load(store, header, new MetadataMap(store.name), async () => undefined);
  const { refcountBlockEntries } = refcounts.geometry;
  const counts = new ReferenceCounts(image.fileClusters, countBits);
  const most = Math.min(counts.max, 2 ** (2 ** order) - 1);
  const blocks: number[] = [];
  for (let index = 0; index < refcounts.tableEntries; index++) {
    const block = await refcounts.block(index);
    if (!block) continue;
    blocks.push(block.at);
    const { access } = refcounts;
    for (let at = 0; ; at++) {
      at = access.findUsed(block.view, at, refcountBlockEntries);
      if (at >= refcountBlockEntries) break;
      const cluster = index * refcountBlockEntries + at;
      const count = access.get(block.view, at);
      if (count > most) throw doesNotFit(image, order, cluster, count);
      counts.set(cluster, count);
    }
  }
  return { counts, blocks };
}

function doesNotFit(image: CheckedImage, order: number, cluster: number, count: number): DiskError {
  const offset = cluster * image.clusterSize;
  return new DiskError(
    'unsupported',
    `Cannot decrease refcount entry width to ${2 ** order} bits: Cluster at offset ${hex(offset)} has a ` +
      `refcount of ${count}`,
    { path: image.source.name, offset, field: 'refcount_bits', detail: { count } },
  );
}
