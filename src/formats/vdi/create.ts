import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { type ByteStore, hasFixedSize } from '../../storage/store.ts';
import type { CreateContext, OptionValues } from '../driver.ts';
import { blockBytes, encodeHeader, headerBytes, ImageType, maxBlocks } from './header.ts';

const chunkBytes = 1 << 20;

/** Lays an empty image into `store`: as qemu-img writes it, but for the UUIDs. */
export async function createVdi(
  store: ByteStore,
  size: number,
  options: OptionValues,
  context: CreateContext,
): Promise<void> {
  if (context.backing) {
    throw new DiskError('unsupported', 'A VDI image with a parent cannot be created', {
      path: store.name,
      field: 'backing_file',
    });
  }
  const limit = maxBlocks * blockBytes;
  if (size > limit) {
    const figures = `size is 0x${size.toString(16)}, max supported is 0x${limit.toString(16)}`;
    throw new DiskError('out-of-range', `Unsupported VDI image size (${figures})`, {
      path: store.name,
      field: 'size',
      detail: { size },
    });
  }
  const isStatic = options.static === true;
  const diskSize = alignUp(size, 512);
  const blocks = Math.ceil(diskSize / blockBytes);
  const mapBytes = alignUp(blocks * 4, 512);
  const dataOffset = headerBytes + mapBytes;
  const header = encodeHeader({
    imageType: isStatic ? ImageType.static : ImageType.dynamic,
    mapOffset: headerBytes,
    dataOffset,
    diskSize,
    blocks,
    allocatedBlocks: isStatic ? blocks : 0,
  });
  if (store.size > 0 && !hasFixedSize(store)) await store.resize(0);
  await store.write(0, header);
  for (let at = 0; at < mapBytes; at += chunkBytes) {
    const words = new DataView(new ArrayBuffer(Math.min(chunkBytes, mapBytes - at)));
    for (let word = 0; word * 4 < words.byteLength; word++) {
      const block = at / 4 + word;
      if (block >= blocks) break;
      words.setUint32(word * 4, isStatic ? block : 0xffff_ffff, true);
    }
    await store.write(headerBytes + at, new Uint8Array(words.buffer));
  }
  if (!isStatic || blocks === 0) return;
  await store.zero(dataOffset, blocks * blockBytes, { punch: true });
}
