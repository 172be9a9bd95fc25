import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { type ByteStore, hasFixedSize } from '../../storage/store.ts';
import type { FormatDriver, OptionValues } from '../driver.ts';
import { checkParallels } from './check.ts';
import { encodeHeader, headerBytes, isParallels, maxTracks } from './header.ts';
import { openParallels } from './layer.ts';

/** Parallels' expanding hard disk. */
export const parallels: FormatDriver = {
  name: 'parallels',
  createOptions: [
    { name: 'size', type: 'size', help: 'Virtual disk size' },
    { name: 'cluster_size', type: 'size', help: 'Parallels image cluster size', default: 1 << 20 },
  ],
  probe: ({ head }) => (isParallels(head) ? 100 : 0),
  open: openParallels,
  create: createParallels,
  check: checkParallels,
};

/** Lays an empty image into `store`, byte for byte as qemu-img does. */
async function createParallels(
  store: ByteStore,
  size: number,
  options: OptionValues,
  context: { readonly backing?: unknown },
): Promise<void> {
  const refuse = (field: string, message: string) => {
    throw new DiskError('bad-argument', message, { path: store.name, field });
  };
  if (context.backing) refuse('backing_file', 'A Parallels image cannot have a backing file');
  const clusterBytes = alignUp(Number(options.cluster_size ?? 1 << 20), 512);
  const guestSize = alignUp(size, 512);
  if (guestSize >= 2 ** 32 * clusterBytes || clusterBytes / 512 > maxTracks)
    refuse('size', 'Image size is too large for this cluster size');
  const entries = Math.ceil(guestSize / clusterBytes);
  const dataOffset = alignUp(headerBytes + entries * 4, clusterBytes);
  if (store.size > 0 && !hasFixedSize(store)) await store.resize(0);
  await store.write(0, encodeHeader({ clusterBytes, entries, size: guestSize, dataOffset }));
  await store.zero(headerBytes, dataOffset - headerBytes, { punch: true });
}
