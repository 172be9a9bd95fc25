import type { ByteSource } from '../../storage/store.ts';
import type { LayerDetails } from '../driver.ts';
import { readBitmapDirectory } from './bitmap-directory.ts';
import { Autoclear, Compatible, CryptMethod, compressionNames, Incompatible } from './constants.ts';
import { describeEncryption } from './encryption.ts';
import { dataFileNameOf } from './extensions.ts';
import { clusterSizeOf, hasIncompatible, type Qcow2Header, refcountBitsOf } from './header.ts';
import { readSnapshots } from './snapshots.ts';

/** What `info` shows, by QEMU's keys (ImageInfoSpecificQCow2). */
export async function detailsOf(source: ByteSource, header: Qcow2Header): Promise<LayerDetails> {
  const { entries } = await readSnapshots(source, header, { lenient: true });
  const encrypted = header.cryptMethod !== CryptMethod.none;
  return {
    clusterSize: clusterSizeOf(header),
    encrypted: encrypted || undefined,
    dirty: hasIncompatible(header, Incompatible.dirty),
    snapshots: entries.length > 0 ? entries : undefined,
    formatSpecific: { type: 'qcow2', data: await formatSpecific(source, header) },
  };
}

async function formatSpecific(source: ByteSource, header: Qcow2Header): Promise<Record<string, unknown>> {
  const compressionType = compressionNames[header.compressionType];
  if (header.version === 2) {
    const encrypt = await describeEncryption(source, header);
    return {
      compat: '0.10',
      'refcount-bits': refcountBitsOf(header),
      ...(encrypt ? { encrypt } : {}),
      'compression-type': compressionType,
    };
  }
  const data: Record<string, unknown> = { compat: '1.1' };
  const dataFile = dataFileNameOf(header);
  if (hasIncompatible(header, Incompatible.dataFile)) {
    if (dataFile !== undefined) data['data-file'] = dataFile;
    data['data-file-raw'] = (header.autoclearFeatures & Autoclear.dataFileRaw) !== 0n;
  }
  data['extended-l2'] = hasIncompatible(header, Incompatible.extendedL2);
  data['lazy-refcounts'] = (header.compatibleFeatures & Compatible.lazyRefcounts) !== 0n;
  data.corrupt = hasIncompatible(header, Incompatible.corrupt);
  data['refcount-bits'] = refcountBitsOf(header);
  const encrypt = await describeEncryption(source, header);
  if (encrypt) data.encrypt = encrypt;
  const bitmaps = await readBitmapDirectory(source, header);
  if (bitmaps.length > 0) {
    data.bitmaps = bitmaps.map((bitmap) => ({
      flags: [...(bitmap.inUse ? ['in-use'] : []), ...(bitmap.auto ? ['auto'] : [])],
      name: bitmap.name,
      granularity: 2 ** bitmap.granularityBits,
    }));
  }
  data['compression-type'] = compressionType;
  return data;
}
