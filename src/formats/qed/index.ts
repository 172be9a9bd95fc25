import { alignUp, viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { CreateContext, FormatDriver, OptionValues } from '../driver.ts';
import { checkTables } from './check.ts';
import {
  encodeHeader,
  headerBytes,
  magic,
  maxClusterBytes,
  maxSizeOf,
  maxTableClusters,
  minClusterBytes,
  tableBytesOf,
  withBacking,
} from './header.ts';
import { openQed, readBacking, readQedHeader } from './layer.ts';

/** QEMU's enhanced disk format. */
export const qed: FormatDriver = {
  name: 'qed',
  createOptions: [
    { name: 'size', type: 'size', help: 'Virtual disk size' },
    { name: 'backing_file', type: 'string', help: 'File name of a base image' },
    { name: 'backing_fmt', type: 'string', help: 'Image format of the base image' },
    { name: 'cluster_size', type: 'size', help: 'Cluster size (in bytes)', default: 65536 },
    { name: 'table_size', type: 'size', help: 'L1/L2 table size (in clusters)' },
  ],
  probe: ({ head }) => (head.length >= headerBytes && viewOf(head).getUint32(0, true) === magic ? 100 : 0),
  open: openQed,
  async references(source) {
    const backing = await readBacking(source, await readQedHeader(source));
    return backing ? [{ role: 'backing file', ...backing }] : [];
  },
  create: createQed,
  async check(layer, options) {
    return checkTables(layer.source, await readQedHeader(layer.source), options);
  },
};

/** Lays an empty image into `store`, byte for byte as qemu-img does. */
async function createQed(
  store: ByteStore,
  size: number,
  options: OptionValues,
  context: CreateContext,
): Promise<void> {
  const clusterSize = Number(options.cluster_size ?? 65536);
  const tableSize = Number(options.table_size ?? 4);
  const refuse = (field: string, message: string) => {
    throw new DiskError('bad-argument', message, { path: store.name, field });
  };
  const isPower = (value: number) => Number.isInteger(Math.log2(value));
  if (!isPower(clusterSize) || clusterSize < minClusterBytes || clusterSize > maxClusterBytes) {
    const range = `[${minClusterBytes}, ${maxClusterBytes}]`;
    refuse('cluster_size', `QED cluster size must be within range ${range} and power of 2`);
  }
  if (!isPower(tableSize) || tableSize < 1 || tableSize > maxTableClusters) {
    refuse('table_size', `QED table size must be within range [1, ${maxTableClusters}] and power of 2`);
  }
  const most = maxSizeOf({ clusterSize, tableSize });
  const guestSize = alignUp(size, 512);
  if (guestSize > most) {
    const message = 'QED image size must be a non-zero multiple of cluster size and less than';
    refuse('size', `${message} ${most} bytes`);
  }
  const plain = {
    clusterSize,
    tableSize,
    headerSize: 1,
    features: 0,
    l1Offset: clusterSize,
    size: guestSize,
    backingOffset: 0,
    backingSize: 0,
  };
  const { header, name } = withBacking(plain, context.backing, store.name);
  // An image grows at the end of its file, which a device's does not: it refuses to be empty.
  if (store.size > 0) await store.resize(0);
  await store.write(0, encodeHeader(header));
  if (name.length > 0) await store.write(headerBytes, name);
  await store.zero(clusterSize, tableBytesOf(header), { punch: true });
}
