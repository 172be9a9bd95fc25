import { isDiskError } from '../../../errors.ts';
import { offerSpace } from '../../offer-space.ts';
import type { CheckedImage } from './checked-image.ts';
import { pageEntries, type ReferenceCounts } from './reference-counts.ts';
import type { StoredRefcounts } from './stored-refcounts.ts';
import type { Tally } from './tally.ts';

export interface ComparedRefcounts {
  /** The last cluster that is in use or said to be. */
  readonly highest: number;
  /** A cluster in use counts as free, so refcounts cannot be put right in place. */
  readonly rebuild: boolean;
}

/** Which differences are put right in place. */
export interface RepairKinds {
  readonly leaks: boolean;
  readonly errors: boolean;
  /** Holes are punched where leaked clusters lie that nothing refers to. */
  readonly giveBack?: boolean;
}

/**
 * Compares the refcounts that the image stores with the references that were counted, cluster by cluster, and
 * with `repair` puts right what can be in place. Repairs are durable on return.
 */
export async function compareRefcounts(
  image: CheckedImage,
  stored: StoredRefcounts,
  counts: ReferenceCounts,
  tally: Tally,
  repair: RepairKinds = { leaks: false, errors: false },
): Promise<ComparedRefcounts> {
  let highest = 0;
  let rebuild = false;
  let changed = false;
  /** Runs of clusters that the next block says are free. */
  const freed: { readonly first: number; count: number }[] = [];
  const { blockEntries } = stored;
  for (let from = 0; from < counts.size; ) {
    // A piece lies in one refcount block and in one page of counts.
    const index = Math.floor(from / blockEntries);
    const pageNumber = Math.floor(from / pageEntries);
    const to = Math.min((index + 1) * blockEntries, (pageNumber + 1) * pageEntries, counts.size);
    const page = counts.page(pageNumber);
    const block = await load(index, from, to);
    if (block && comparePiece(block, index, page, from, to)) {
      // Before the refcounts say so: after that nobody would find what free clusters take.
      for (const run of freed.splice(0)) await punch(run);
      await stored.write(index);
      changed = true;
    } else if (block === undefined && page) {
      for (let cluster = from; cluster < to; cluster++) {
        const count = page[cluster % pageEntries];
        if (count !== 0) unlike(cluster, 0, 0n, count);
      }
    }
    from = to;
  }
  if (changed) await image.store.flush();
  return { highest, rebuild };

  /** Null: the block cannot be read, which has been reported. */
  async function load(index: number, from: number, to: number): Promise<Uint8Array | null | undefined> {
    try {
      return await stored.block(index);
    } catch (error) {
      if (!isDiskError(error)) throw error;
      for (let cluster = from; cluster < to; cluster++) {
        tally.checkError(`Can't get refcount for cluster ${cluster}: Input/output error`);
      }
      return null;
    }
  }

  /** True: the block was changed and must be written. */
  function comparePiece(
    block: Uint8Array,
    index: number,
    page: Uint8Array | Uint16Array | Uint32Array | undefined,
    from: number,
    to: number,
  ): boolean {
    let dirty = false;
    const first = index * blockEntries;
    for (let cluster = from; cluster < to; cluster++) {
      const count = page ? page[cluster % pageEntries] : 0;
      const value = stored.value(block, cluster - first);
      if (value === count) {
        if (value !== 0) highest = cluster;
      } else if (unlike(cluster, value, stored.exact(block, cluster - first), count)) {
        stored.set(block, cluster - first, count);
        dirty = true;
        if (repair.giveBack && count === 0) addTo(freed, cluster);
      }
    }
    return dirty;
  }

  async function punch(run: { readonly first: number; readonly count: number }): Promise<void> {
    const at = run.first * image.clusterSize;
    const length = Math.min(run.count * image.clusterSize, image.store.size - at);
    if (length > 0) await offerSpace(image.store, at, length);
  }

  /** Reports a difference. True: it is to be put right here. */
  function unlike(cluster: number, value: number, exact: bigint, count: number): boolean {
    highest = cluster;
    if (value === 0) rebuild = true;
    const fixes = value !== 0 && (value > count ? repair.leaks : repair.errors);
    const leak = value > count;
    const verb = fixes ? 'Repairing' : leak ? 'Leaked' : 'ERROR';
    tally.say(
      leak ? 'leak' : 'corruption',
      `${verb} cluster ${cluster} refcount=${exact} reference=${count}`,
      {
        offset: cluster * image.clusterSize,
        fixed: fixes || undefined,
      },
    );
    if (fixes) tally.counts[leak ? 'leaksFixed' : 'corruptionsFixed']++;
    else tally.counts[leak ? 'leaks' : 'corruptions']++;
    return fixes;
  }
}

function addTo(runs: { readonly first: number; count: number }[], cluster: number): void {
  const last = runs.at(-1);
  if (last && last.first + last.count === cluster) last.count += 1;
  else runs.push({ first: cluster, count: 1 });
}
