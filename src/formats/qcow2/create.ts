import { alignUp } from '../../bytes/numbers.ts';
import { wipe } from '../../crypto/bytes.ts';
import { createHeader, type LuksPlan } from '../../crypto/luks/create.ts';
import { DiskError } from '../../errors.ts';
import { type ByteStore, hasFixedSize } from '../../storage/store.ts';
import { storeWindowOf } from '../../storage/window.ts';
import type { CreateContext, OptionValues } from '../driver.ts';
import { requireSecret } from '../encryption.ts';
import { CryptMethod, ExtensionType, entryBytes, extendedEntryBytes, maxL1Bytes } from './constants.ts';
import { type HeaderExtension, withExtension } from './extensions.ts';
import { flushImage } from './flush.ts';
import type { Qcow2Header } from './header.ts';
import { encodeHeader, newHeader } from './header-encode.ts';
import { replaceHeader } from './header-write.ts';
import type { WritableQcow2Layer } from './layer.ts';
import { openForWriting } from './open.ts';
import { parseCreateOptions, type Qcow2CreateOptions } from './options.ts';
import { refcountAccess } from './refcount-width.ts';

/** A new image before it is written: its file's content from the first byte to the last. */
export interface NewImage {
  readonly bytes: Uint8Array;
  /** What the first cluster encodes; nothing else in `bytes` depends on its extensions and names. */
  readonly header: Qcow2Header;
  readonly options: Qcow2CreateOptions;
  /** Guest bytes, rounded up to whole sectors. */
  readonly size: number;
  /** Guest bytes that the image as encoded has: 0 when the L1 table must still be made by growing it. */
  readonly encodedSize: number;
}

/**
 * The content of an empty image: header, refcount table in cluster 1, refcount block in cluster 2, L1 table from
 * cluster 3 on: byte for byte what qemu-img writes. Pure; `extensions` are added to the header. Throws
 * `bad-argument` for options, `out-of-range` for a size or a name that does not fit.
 */
export function encodeNewImage(
  size: number,
  values: OptionValues,
  context: Pick<CreateContext, 'backing'> & { readonly extensions?: readonly HeaderExtension[] } = {},
): NewImage {
  const backingFile = context.backing?.path ?? stringOf(values.backing_file);
  const backingFormat = context.backing?.format ?? stringOf(values.backing_fmt);
  const options = parseCreateOptions(values, backingFile !== undefined);
  const { clusterSize } = options;
  const guestSize = alignUp(size, 512);
  const l2Entries = clusterSize / (options.extendedL2 ? extendedEntryBytes : entryBytes);
  const l1Size = Math.ceil(guestSize / (clusterSize * l2Entries));
  if (!Number.isSafeInteger(guestSize) || size < 0 || l1Size * 8 > maxL1Bytes) {
    const message = "The image size is too large for file format 'qcow2' (try using a larger cluster size)";
    throw new DiskError('out-of-range', message, { field: 'size', detail: { size, errno: 'EFBIG' } });
  }
  const clusters = 3 + Math.ceil((l1Size * 8) / clusterSize);
  // As QEMU, which lays the encryption's header before the L1 table.
  const fits = !options.encryption && clusters <= (clusterSize * 8) / 2 ** options.refcountOrder;
  const header = newHeader({
    ...options,
    size: fits ? guestSize : 0,
    l1Size: fits ? l1Size : 0,
    l1TableOffset: fits && l1Size > 0 ? 3 * clusterSize : 0,
    backingFile,
    backingFormat,
    extensions: context.extensions,
  });
  const bytes = new Uint8Array(3 * clusterSize + (fits ? l1Size * 8 : 0));
  bytes.set(encodeHeader(header));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(clusterSize, BigInt(2 * clusterSize));
  const block = new DataView(bytes.buffer, 2 * clusterSize, clusterSize);
  refcountAccess(options.refcountOrder).fill(block, 0, fits ? clusters : 3, 1);
  return { bytes, header, options, size: guestSize, encodedSize: header.size };
}

/**
 * Lays an empty image into `store`, emptied first. Not flushed: the caller decides when it must be durable.
 * Throws as `encodeNewImage` does.
 */
export async function createQcow2(
  store: ByteStore,
  size: number,
  values: OptionValues,
  context: CreateContext & { readonly extensions?: readonly HeaderExtension[] },
): Promise<void> {
  const image = encodeNewImage(size, values, context);
  const { encryption } = image.options;
  const passphrase =
    encryption && (await requireSecret(context, encryption.keySecret, 'encrypt.', store.name));
  const { dataFile, dataFileRaw } = image.options;
  const data = dataFile === undefined ? undefined : await createDataFile(dataFile, image.size, context);
  // The map of a raw data file names all of it, so that a program that knows nothing of the map changes nothing of it.
  const given = image.options.preallocation;
  const preallocation = dataFileRaw && given === 'off' ? 'metadata' : given;
  if (store.size > 0 && !hasFixedSize(store)) await store.resize(0);
  await store.write(0, image.bytes);
  if (preallocation === 'off' && image.encodedSize === image.size && !passphrase) return;
  let layer = await openForWriting(store, data);
  try {
    if (passphrase) await addEncryption(layer, encryption!.plan, passphrase, context.signal);
  } finally {
    wipe(passphrase);
  }
  if (image.encodedSize !== image.size) await layer.resize(image.size);
  if (passphrase && preallocation !== 'off') {
    await layer.finish();
    const options = { 'encrypt.key-secret': encryption!.keySecret };
    layer = await openForWriting(store, data, { options, secret: context.secret });
  }
  if (preallocation !== 'off') {
    await layer.preallocate(0, image.size, preallocation, context.onProgress);
  }
  await layer.finish();
}

/** Gives an image without guest data a LUKS header. The image's header names it last. */
async function addEncryption(
  layer: WritableQcow2Layer,
  plan: LuksPlan,
  passphrase: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<void> {
  await layer.change(async (writer) => {
    const { store, mapping } = writer;
    const { clusterSize } = mapping.geometry;
    await writer.load();
    const length = plan.payloadOffset;
    const offset = (await writer.refcounts.allocateContiguous(Math.ceil(length / clusterSize))) * clusterSize;
    await store.zero(offset, alignUp(length, clusterSize), { punch: false });
    await createHeader(storeWindowOf(store, { offset, size: length }), plan, passphrase, { signal });
    await flushImage(writer);
    const data = new Uint8Array(16);
    new DataView(data.buffer).setBigUint64(0, BigInt(offset));
    new DataView(data.buffer).setBigUint64(8, BigInt(length));
    writer.header = await replaceHeader(store, writer.header, {
      ...writer.header,
      cryptMethod: CryptMethod.luks,
      extensions: withExtension(writer.header.extensions, ExtensionType.crypto, data),
    });
  });
}

async function createDataFile(name: string, size: number, context: CreateContext): Promise<ByteStore> {
  if (!context.sibling) {
    throw new DiskError('unsupported', 'External data files are not supported here', { field: 'data_file' });
  }
  const data = await context.sibling(name);
  if (!hasFixedSize(data)) await data.resize(size);
  return data;
}

function stringOf(value: string | number | boolean | undefined): string | undefined {
  return value === undefined || value === '' ? undefined : String(value);
}
