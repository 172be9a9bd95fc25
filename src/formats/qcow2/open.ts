import { DiskError } from '../../errors.ts';
import type { EncryptedStore } from '../../storage/encrypted.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { OpenContext } from '../driver.ts';
import { checkBitmaps } from './bitmap-open.ts';
import { cacheSizes } from './cache-sizes.ts';
import { CryptMethod, Incompatible } from './constants.ts';
import { openEncryption } from './encryption.ts';
import { unsupported } from './errors.ts';
import { dataFileNameOf } from './extensions.ts';
import { geometryOf } from './geometry.ts';
import { hasIncompatible, type Qcow2Header, readHeader } from './header.ts';
import { Qcow2Layer, WritableQcow2Layer } from './layer.ts';
import { Mapping } from './mapping.ts';
import { runtimeOptions } from './runtime-options.ts';
import { readSnapshots } from './snapshots.ts';
import { Qcow2Writer } from './writer.ts';

/** What opening needs of the rest of the format's folder. */
export interface OpenHooks {
  /** Rebuilds the refcounts of an image that was not closed properly; durable on return. */
  repairDirty?(store: ByteStore): Promise<unknown>;
}

/**
 * Opens an image. Throws `corrupt` and `unsupported` with QEMU's sentences; with `metadataOnly`, what can be
 * said of the header is no error, only reading guest data then is.
 */
export async function openQcow2(
  source: ByteSource,
  context: OpenContext,
  hooks: OpenHooks = {},
): Promise<Qcow2Layer> {
  const { metadataOnly = false, writable } = context;
  let header = await readHeader(source, { lenient: context.checking });
  const refusal = refusalOf(source.name, header, context);
  if (refusal && !metadataOnly) throw refusal;
  if (!metadataOnly) {
    if (writable && hasIncompatible(header, Incompatible.corrupt)) {
      throw new DiskError('corrupt', 'qcow2: Image is corrupt; cannot be opened read/write', {
        path: source.name,
        field: 'incompatible_features',
        detail: { errno: 'EACCES' },
      });
    }
    if (header.snapshotCount > 0) await readSnapshots(source, header, { lenient: !writable });
    if (writable && hasIncompatible(header, Incompatible.dirty)) header = await repair(source, header, hooks);
  }
  await checkBitmaps(source, header);
  const encryption = await openEncryption(source, header, context);
  const external = hasIncompatible(header, Incompatible.dataFile) && !metadataOnly;
  const data = external ? await openData(source, header, context) : undefined;
  let guest: EncryptedStore | undefined;
  try {
    guest = await encryption?.guestOver?.(data ?? source, data !== undefined);
    const layer = layerOver(source, header, context, { data, guest }, refusal);
    layer.keySecret = encryption?.keySecret;
    layer.legacy = encryption?.legacy;
    return layer;
  } catch (error) {
    await (guest ?? data)?.[Symbol.asyncDispose]();
    throw error;
  }
}

function layerOver(
  source: ByteSource,
  header: Qcow2Header,
  context: OpenContext,
  { data, guest }: { readonly data?: ByteSource; readonly guest?: EncryptedStore },
  refusal: DiskError | undefined,
): Qcow2Layer {
  const caches = cacheSizes(context.options, header.size, geometryOf(header), source.name);
  const runtime = runtimeOptions(context.options, header, source.name);
  const mapping = new Mapping(source, header, caches.l2);
  if (!context.metadataOnly) mapping.checkL1();
  if (!context.writable) return new Qcow2Layer(source, header, mapping, refusal, guest ?? data);
  const writer = new Qcow2Writer(source as ByteStore, header, mapping, {
    ...runtime,
    refcountCacheBytes: caches.refcounts,
    data: data as ByteStore | undefined,
    guest,
  });
  return new WritableQcow2Layer(writer, refusal);
}

/** Opens an image that was just created, with its data file if it has one. */
export async function openForWriting(
  store: ByteStore,
  data?: ByteStore,
  context: Pick<OpenContext, 'options' | 'secret'> = {},
): Promise<WritableQcow2Layer> {
  const sibling = data && (async () => data);
  return (await openQcow2(store, { ...context, writable: true, sibling })) as WritableQcow2Layer;
}

/** Why the guest's data cannot be had, if so. */
function refusalOf(path: string, header: Qcow2Header, context: OpenContext): DiskError | undefined {
  if (context.metadataOnly && header.cryptMethod !== CryptMethod.none) {
    return new DiskError('bad-argument', "Parameter 'encrypt.key-secret' is required for cipher", {
      path,
      field: 'key-secret',
    });
  }
  if (hasIncompatible(header, Incompatible.dataFile) && !context.sibling) {
    const message = 'The image has an external data file, and nothing was given to open it with';
    return unsupported(path, 'incompatible_features', message, { features: 'external data file' });
  }
  if (hasIncompatible(header, Incompatible.dataFile) && context.metadataOnly) {
    const message = 'The external data file was not opened';
    return unsupported(path, 'incompatible_features', message, { features: 'external data file' });
  }
  return undefined;
}

/** The external data file (section "Header extensions"), through the caller's policy. Throws as opening it does. */
function openData(source: ByteSource, header: Qcow2Header, context: OpenContext): Promise<ByteSource> {
  const name = dataFileNameOf(header);
  if (name !== undefined) return context.sibling!(name, context.writable);
  throw new DiskError('corrupt', "'data-file' is required for this image", {
    path: source.name,
    field: 'data file',
    detail: { errno: 'EINVAL' },
  });
}

async function repair(source: ByteSource, header: Qcow2Header, hooks: OpenHooks): Promise<Qcow2Header> {
  if (!hooks.repairDirty) {
    throw unsupported(
      source.name,
      'incompatible_features',
      'The image was not closed properly: repair it first',
    );
  }
  await hooks.repairDirty(source as ByteStore);
  const repaired = await readHeader(source);
  if (!hasIncompatible(repaired, Incompatible.dirty)) return repaired;
  throw new DiskError('corrupt', 'Could not repair dirty image', {
    path: source.name,
    field: 'incompatible_features',
    detail: { errno: 'EIO', clusterBits: header.clusterBits },
  });
}
