import { bytesOf } from '../../bytes/byte-text.ts';
import { wipe } from '../../crypto/bytes.ts';
import { amendSlots, type SlotWish } from '../../crypto/luks/amend.ts';
import { readHeader as readLuksHeader } from '../../crypto/luks/key-slots.ts';
import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { AmendContext, OptionSpec, OptionValues } from '../driver.ts';
import { namedSecret, requireSecret, slotOptions, slotWish } from '../encryption.ts';
import { repairRefcounts } from './check/index.ts';
import * as c from './constants.ts';
import { encryptionOf, luksArea } from './encryption.ts';
import {
  backingFileOf,
  backingFormatOf,
  bitmapsOf,
  dataFileNameOf,
  featureNameTable,
  findExtension,
  withExtension,
} from './extensions.ts';
import { clusterSizeOf, hasIncompatible, type Qcow2Header, readHeader } from './header.ts';
import { replaceHeader } from './header-write.ts';
import { hasPackedClusters } from './l2-tables.ts';
import { createOptions } from './options.ts';
import { reshapeRefcounts } from './refcount-reshape.ts';
import { readSnapshots } from './snapshots.ts';
import { dropZeroClusters } from './zero-clusters.ts';

const amendable = 'backing_file backing_fmt compat data_file data_file_raw lazy_refcounts refcount_bits size';

/** What `amend` knows, named and worded as QEMU's `-o help` does. */
export const amendOptions: readonly OptionSpec[] = [
  ...createOptions.filter(({ name }) => amendable.split(' ').includes(name)),
  ...slotOptions('encrypt.'),
];

/** Version 2 has no field for it: 16 bits. */
const refcountOrderV2 = 4;

const versions: Readonly<Record<string, 2 | 3>> = { '0.10': 2, v2: 2, '1.1': 3, v3: 3 };

/**
 * Changes `compat`, `refcount_bits`, `lazy_refcounts` and what is said of a data file, in QEMU's order and with its sentences. Going
 * down to version 2, the active disk must have no zero clusters left, and over a backing file no snapshot. Throws `bad-argument` and `unsupported`.
 */
export async function amendQcow2(
  store: ByteStore,
  values: OptionValues,
  how: AmendContext = {},
): Promise<void> {
  let header = await readHeader(store);
  const { version, refcountOrder, lazyRefcounts, dataFile, rawData } = understand(header, values, store.name);
  const slots = slotWish(values, 'encrypt.');
  if (slots) await amendEncryption(store, header, slots, how);
  if (version > header.version) header = await upgrade(store, header);
  if (refcountOrder !== header.refcountOrder) {
    if (version < 3 && refcountOrder !== refcountOrderV2) {
      const message =
        'Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)';
      throw refusal(store.name, 'refcount_bits', message);
    }
    await reshapeRefcounts(store, refcountOrder);
    header = await readHeader(store);
  }
  header = await setDataFile(store, header, dataFile, rawData);
  if (lazyRefcounts !== undefined) header = await setLazyRefcounts(store, header, version, lazyRefcounts);
  if (version >= header.version) return;
  await checkDowngrade(store, header, how.size ?? header.size);
  if (!how.keepVersion) await downgrade(store, header);
}

async function amendEncryption(
  store: ByteStore,
  header: Qcow2Header,
  wish: SlotWish,
  how: AmendContext,
): Promise<void> {
  const path = store.name;
  if (encryptionOf(header) !== 'luks') {
    throw refusal(path, 'encrypt', 'Only LUKS encryption options can be amended');
  }
  const area = luksArea(store, header);
  const passphrase = await requireSecret(how, how.keySecret, 'encrypt.', path);
  try {
    await amendSlots(area, await readLuksHeader(area), wish, {
      passphrase,
      force: how.force,
      signal: how.signal,
      secret: (id) => namedSecret(how, id, path),
    });
  } finally {
    wipe(passphrase);
  }
}

interface Wish {
  readonly version: 2 | 3;
  readonly refcountOrder: number;
  readonly lazyRefcounts?: boolean;
  /** Another name for the data file; empty: none. */
  readonly dataFile?: string;
  readonly rawData: boolean;
}

function understand(header: Qcow2Header, values: OptionValues, path: string): Wish {
  let { version, refcountOrder } = header;
  if (values.compat !== undefined) {
    const compat = String(values.compat);
    version =
      versions[compat] ??
      (() => {
        throw refusal(path, 'compat', `Unknown compatibility level ${compat}`);
      })();
  }
  if (Object.keys(values).some((name) => name.startsWith('encrypt.')) && header.cryptMethod === 0) {
    throw refusal(path, 'encrypt', "Can't amend encryption options - encryption not present");
  }
  if (values.refcount_bits !== undefined) {
    refcountOrder = Math.log2(Number(values.refcount_bits));
    if (!(Number.isInteger(refcountOrder) && refcountOrder >= 0 && refcountOrder <= 6)) {
      const message = 'Refcount width must be a power of two and may not exceed 64 bits';
      throw refusal(path, 'refcount_bits', message);
    }
  }
  if (values.data_file !== undefined) {
    if (!hasIncompatible(header, c.Incompatible.dataFile)) {
      const message = 'data-file can only be set for images that use an external data file';
      throw refusal(path, 'data_file', message);
    }
  }
  const rawData = (header.autoclearFeatures & c.Autoclear.dataFileRaw) !== 0n;
  if (values.data_file_raw === true && !rawData) {
    throw refusal(path, 'data_file_raw', 'data-file-raw cannot be set on existing images');
  }
  checkBacking(header, values, path);
  return {
    version,
    refcountOrder,
    lazyRefcounts: values.lazy_refcounts as boolean | undefined,
    dataFile: values.data_file === undefined ? undefined : String(values.data_file),
    rawData: rawData && values.data_file_raw !== false,
  };
}

function checkBacking(header: Qcow2Header, values: OptionValues, path: string): void {
  const { backing_file: file, backing_fmt: format } = values;
  if (file === undefined && format === undefined) return;
  if (file === backingFileOf(header) && format === backingFormatOf(header)) return;
  throw refusal(path, 'backing_file', 'Cannot amend the backing file');
}

async function upgrade(store: ByteStore, before: Qcow2Header): Promise<Qcow2Header> {
  let header = before;
  const { entries } = await readSnapshots(store, header);
  if (entries.some(({ extraData }) => extraData.length < 16)) {
    // Version 3 wants the disk's size in every entry, and version 2 may have it: so that comes first.
    await repairRefcounts(store, { completeSnapshots: true });
    header = await readHeader(store);
  }
  const names = clusterSizeOf(header) > 4096 ? featureNameTable() : undefined;
  return replaceHeader(store, header, {
    ...header,
    version: 3,
    headerLength: c.headerLengthFull,
    unknownFields: new Uint8Array(0),
    extensions: withExtension(header.extensions, c.ExtensionType.featureNames, names),
  });
}

/** Only what the header says of the data file: nobody looks whether it is there, and no byte moves. */
async function setDataFile(
  store: ByteStore,
  header: Qcow2Header,
  name: string | undefined,
  raw: boolean,
): Promise<Qcow2Header> {
  const isRaw = (header.autoclearFeatures & c.Autoclear.dataFileRaw) !== 0n;
  const renamed = name !== undefined && name !== (dataFileNameOf(header) ?? '');
  if (!renamed && raw === isRaw) return header;
  const data = name ? bytesOf(name) : undefined;
  return replaceHeader(store, header, {
    ...header,
    autoclearFeatures: raw
      ? header.autoclearFeatures
      : header.autoclearFeatures & ~BigInt(c.Autoclear.dataFileRaw),
    extensions: renamed
      ? withExtension(header.extensions, c.ExtensionType.dataFile, data, 'first')
      : header.extensions,
  });
}

async function setLazyRefcounts(
  store: ByteStore,
  header: Qcow2Header,
  version: 2 | 3,
  on: boolean,
): Promise<Qcow2Header> {
  const isOn = (header.compatibleFeatures & c.Compatible.lazyRefcounts) !== 0n;
  if (on === isOn) return header;
  if (on && version < 3) {
    const message =
      'Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)';
    throw refusal(store.name, 'lazy_refcounts', message);
  }
  const compatibleFeatures = on
    ? header.compatibleFeatures | c.Compatible.lazyRefcounts
    : header.compatibleFeatures & ~c.Compatible.lazyRefcounts;
  return replaceHeader(store, header, { ...header, compatibleFeatures });
}

/** Refuses what version 2 has no place for in a disk of `size` bytes, zero clusters of the active disk aside. */
async function checkDowngrade(store: ByteStore, header: Qcow2Header, size: number): Promise<void> {
  const path = store.name;
  if (header.refcountOrder !== refcountOrderV2) {
    throw refusal(path, 'refcount_bits', 'compat=0.10 requires refcount_bits=16');
  }
  if (hasIncompatible(header, c.Incompatible.dataFile)) {
    throw refusal(path, 'data_file', 'Cannot downgrade an image with a data file');
  }
  const { entries } = await readSnapshots(store, header);
  if (entries.some(({ diskSize, vmStateSize }) => diskSize !== size || vmStateSize > 0xffffffff)) {
    throw refusal(path, 'snapshots', 'Internal snapshots prevent downgrade of image');
  }
  const others = header.incompatibleFeatures & ~c.Incompatible.compression;
  if (others !== 0n) {
    const features = `0x${others.toString(16)}`;
    throw refusal(path, 'compat', `Cannot downgrade an image with incompatible features ${features} set`);
  }
  // QEMU looks at the active disk alone, and loses what snapshots have of them.
  if (hasIncompatible(header, c.Incompatible.compression) && (await hasPackedClusters(store, header))) {
    const message = 'Cannot downgrade an image with zstd compression type and existing compressed clusters';
    throw refusal(path, 'compat', message);
  }
  if (bitmapsOf(header) && findExtension(header, c.ExtensionType.bitmaps)) {
    throw new DiskError('unsupported', 'Cannot downgrade an image with bitmaps: remove them first', {
      path,
      field: 'bitmaps',
    });
  }
}

async function downgrade(store: ByteStore, before: Qcow2Header): Promise<void> {
  const header = await dropZeroClusters(store, before);
  await replaceHeader(store, header, {
    ...header,
    version: 2,
    headerLength: c.headerLengthV2,
    unknownFields: new Uint8Array(0),
    incompatibleFeatures: 0n,
    compatibleFeatures: 0n,
    autoclearFeatures: 0n,
    compressionType: c.CompressionType.zlib,
    extensions: withExtension(header.extensions, c.ExtensionType.featureNames, undefined),
  });
}

function refusal(path: string, field: string, message: string): DiskError {
  return new DiskError('bad-argument', message, { path, field });
}
