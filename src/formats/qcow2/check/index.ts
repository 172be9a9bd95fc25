import { DiskError, isDiskError } from '../../../errors.ts';
import type { ByteSource, ByteStore } from '../../../storage/store.ts';
import type { CheckOptions, CheckResult, Layer } from '../../driver.ts';
import { isWritable } from '../../driver.ts';
import * as c from '../constants.ts';
import { cryptoOf } from '../extensions.ts';
import { refcountBitsOf } from '../header.ts';
import { CheckedImage } from './checked-image.ts';
import { compareRefcounts } from './compare-refcounts.ts';
import { checkCopiedFlags } from './copied-flags.ts';
import { MetadataMap } from './metadata-map.ts';
import { rebuildRefcounts } from './rebuild.ts';
import { ReferenceCounts } from './reference-counts.ts';
import { References } from './references.ts';
import { rewriteSnapshotTable } from './rewrite-snapshots.ts';
import { readSnapshotTable, type SnapshotTable } from './snapshot-table.ts';
import { StoredRefcounts } from './stored-refcounts.ts';
import { Tally } from './tally.ts';
import { walkBitmaps } from './walk-bitmaps.ts';
import { walkRefcountBlocks } from './walk-blocks.ts';
import { TableWalk } from './walk-tables.ts';

/**
 * Checks a qcow2 image, and repairs it where `options.repair` says so: every table is walked and every cluster's
 * references are counted, then compared with the stored refcounts and the COPIED flags. Findings come in the
 * words of `qemu-img check`.
 *
 * The layer must have nothing unwritten, and forgets afterwards what it knew: `WritableLayer.rewritten`.
 * Every step of a repair leaves the image no worse when it is cut short there.
 *
 * Throws when the check cannot go on (`detail.errno` names why, as QEMU does) and `aborted`.
 */
export async function checkQcow2(layer: Layer, options: CheckOptions = {}): Promise<CheckResult> {
  const repair = options.repair ?? 'none';
  if (repair === 'none') return runCheck(layer.source, undefined, options);
  if (!isWritable(layer)) {
    throw new DiskError('read-only', `'${layer.source.name}' was opened only to read`, {
      path: layer.source.name,
    });
  }
  return runCheck(layer.source, layer.source as ByteStore, options);
}

export interface RefcountRepairOptions extends Pick<CheckOptions, 'onFinding' | 'onProgress' | 'signal'> {
  /** Entries of snapshots get the fields that version 3 asks for, also in an image of version 2. */
  readonly completeSnapshots?: boolean;
}

/**
 * Puts right the refcounts of an image that was not closed properly (its dirty bit is set) before it is opened
 * for writing. Durable on return. Throws `corrupt` when something is wrong that cannot be repaired.
 */
export async function repairRefcounts(
  store: ByteStore,
  options: RefcountRepairOptions = {},
): Promise<CheckResult> {
  const result = await runCheck(store, store, { ...options, repair: 'all' });
  if (result.checkErrors > 0 || result.corruptions > 0) {
    throw new DiskError('corrupt', 'The image was not closed properly and cannot be repaired', {
      path: store.name,
      field: 'incompatible_features',
      detail: { errno: 'EIO', corruptions: result.corruptions, checkErrors: result.checkErrors },
    });
  }
  return result;
}

async function runCheck(
  source: ByteSource,
  store: ByteStore | undefined,
  options: CheckOptions & RefcountRepairOptions,
): Promise<CheckResult> {
  const image = await CheckedImage.of(source, store);
  const tally = new Tally(options);
  await new Check(image, tally).run(options.completeSnapshots ?? image.header.version >= 3);
  return tally.result();
}

/** One pass over an image. */
class Check {
  readonly #image: CheckedImage;
  readonly #tally: Tally;
  #snapshots!: SnapshotTable;
  #stored!: StoredRefcounts;
  #counts!: ReferenceCounts;

  constructor(image: CheckedImage, tally: Tally) {
    this.#image = image;
    this.#tally = tally;
  }

  /** `complete`: every entry of a snapshot must have all fields of version 3. */
  async run(complete: boolean): Promise<void> {
    const { repairsErrors, repairsLeaks, counts } = this.#tally;
    this.#snapshots = await readSnapshotTable(this.#image, this.#tally, { repair: repairsErrors, complete });
    await this.#checkRefcounts();
    let snapshotErrors = this.#snapshots.corruptions;
    if (snapshotErrors > 0 && repairsErrors) {
      await this.#fixSnapshotTable();
      counts.corruptionsFixed += snapshotErrors;
      snapshotErrors = 0;
    }
    counts.corruptions += snapshotErrors;
    if (repairsLeaks && counts.checkErrors === 0 && counts.corruptions === 0) {
      await this.#image.clearMarks();
    }
  }

  async #checkRefcounts(): Promise<void> {
    const tally = this.#tally;
    const image = this.#image;
    tally.counts.totalClusters = image.guestClusters;
    this.#stored = await StoredRefcounts.of(image, tally);
    this.#counts = new ReferenceCounts(image.fileClusters, refcountBitsOf(image.header));
    let rebuild = await this.#countReferences(tally.repairsErrors);
    const before = tally.found();
    let compared = await compareRefcounts(image, this.#stored, this.#counts, tally);
    rebuild ||= compared.rebuild;
    if (rebuild && tally.repairsErrors) {
      compared = await this.#rebuild();
    } else if (tally.repairsLeaks) {
      if (rebuild) {
        tally.checkError('ERROR need to rebuild refcount structures');
        throw new DiskError('corrupt', 'The refcount structures must be rebuilt', {
          path: image.source.name,
          detail: { errno: 'EIO' },
        });
      }
      if (tally.counts.leaks > 0 || tally.counts.corruptions > 0) {
        const giveBack = tally.givesBack;
        tally.restore(before);
        compared = await compareRefcounts(image, this.#stored, this.#counts, tally, {
          leaks: true,
          errors: tally.repairsErrors,
          giveBack,
        });
      }
    }
    const { checkErrors, corruptions, leaks } = tally.counts;
    // Without leave to repair errors, only where the refcounts are known to be right.
    const repairsFlags =
      tally.repairsErrors || (tally.repairsLeaks && checkErrors + corruptions + leaks === 0);
    const map = this.#metadataMap();
    const mayWrite = (offset: number, length: number): boolean => map.mayWrite(offset, length);
    await checkCopiedFlags(image, this.#stored, tally, repairsFlags, mayWrite);
    tally.counts.imageEndOffset = (compared.highest + 1) * image.clusterSize;
  }

  /** Counts every reference in the image. True: the refcount structures must be built anew. */
  async #countReferences(repair: boolean): Promise<boolean> {
    const image = this.#image;
    const { header } = image;
    const tally = this.#tally;
    const references = new References(image, this.#counts, tally);
    const walk = new TableWalk(image, references, tally);
    const map = repair ? this.#metadataMap() : undefined;
    const mayWrite = map && ((offset: number, length: number) => map.mayWrite(offset, length));
    references.add(0, image.clusterSize);
    await walk.l1(header.l1TableOffset, header.l1Size, { active: true, repair, mayWrite });
    const { entries, offset, length } = this.#snapshots;
    if (image.hasDataFile && entries.length > 0) {
      tally.corruption(`ERROR ${entries.length} snapshots in image with data file`);
    }
    for (const { id, name, isAligned, l1Offset, l1OffsetShown, l1Size } of entries) {
      if (!isAligned) {
        tally.corruption(
          `ERROR snapshot ${id} (${name}) l1_offset=${l1OffsetShown}: L1 table is not cluster aligned; ` +
            'snapshot table entry corrupted',
        );
      } else if (l1Size > c.maxL1Bytes / c.entryBytes) {
        tally.corruption(
          `ERROR snapshot ${id} (${name}) l1_size=0x${l1Size.toString(16)}: L1 table is too large; ` +
            'snapshot table entry corrupted',
        );
      } else {
        await walk.l1(l1Offset, l1Size, { active: false, repair, mayWrite });
      }
    }
    references.add(offset, length);
    references.add(header.refcountTableOffset, this.#stored.tableEntries * c.entryBytes);
    const crypto = cryptoOf(header);
    if (crypto) references.add(crypto.offset, crypto.length);
    await walkBitmaps(image, references, tally);
    tally.counts.neededBytes = references.end;
    return walkRefcountBlocks(image, this.#stored, references, tally, repair);
  }

  /** New refcount structures; then a second look, and the old ones' clusters are given back. */
  async #rebuild() {
    const tally = this.#tally;
    const image = this.#image;
    const old = tally.found();
    tally.say('error', 'Rebuilding refcount structure');
    try {
      await rebuildRefcounts(image, this.#counts);
    } catch (error) {
      if (isDiskError(error)) tally.counts.checkErrors++;
      throw error;
    }
    tally.restore({ ...old, corruptions: 0, leaks: 0 });
    tally.forgetClusters();
    this.#stored = await StoredRefcounts.of(image, tally);
    this.#counts.clear();
    await this.#countReferences(false);
    const rest = tally.found();
    const { leaksFixed } = tally.counts;
    const compared = await compareRefcounts(image, this.#stored, this.#counts, tally, {
      leaks: true,
      errors: false,
    });
    if (compared.rebuild) tally.say('error', 'ERROR rebuilt refcount structure is still broken');
    // The leaks given back here are the old structures, which count for nothing.
    const freshLeaks = tally.counts.leaks - rest.leaks;
    tally.restore(rest);
    tally.counts.leaksFixed = leaksFixed + Math.max(0, old.leaks - rest.leaks);
    tally.counts.corruptionsFixed += Math.max(0, old.corruptions - rest.corruptions);
    tally.counts.leaks += freshLeaks;
    return compared;
  }

  async #fixSnapshotTable(): Promise<void> {
    try {
      await rewriteSnapshotTable(this.#image, this.#stored, this.#counts, this.#snapshots);
    } catch (error) {
      if (isDiskError(error))
        this.#tally.checkError('ERROR failed to update snapshot table: No space left on device');
      throw error;
    }
  }

  #metadataMap(): MetadataMap {
    return new MetadataMap(this.#image, this.#stored, this.#snapshots);
  }
}
