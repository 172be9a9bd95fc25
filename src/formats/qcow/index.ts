import { alignUp, viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { type ByteStore, hasFixedSize } from '../../storage/store.ts';
import type { CreateContext, FormatDriver, OptionValues } from '../driver.ts';
import { encodeHeader, headerBytes, l1SizeOf, magic } from './header.ts';
import { openQcow, readBacking, readQcowHeader } from './layer.ts';

/** qcow version 1, the format that qcow2 came from. */
export const qcow: FormatDriver = {
  name: 'qcow',
  createOptions: [
    { name: 'size', type: 'size', help: 'Virtual disk size' },
    { name: 'backing_file', type: 'string', help: 'File name of a base image' },
    { name: 'backing_fmt', type: 'string', help: 'Format of the backing image' },
    {
      name: 'encryption',
      type: 'boolean',
      help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    },
    { name: 'encrypt.format', type: 'string', help: "Encrypt the image, format choices: 'aes'" },
    {
      name: 'encrypt.key-secret',
      type: 'string',
      help: 'ID of the secret that provides the AES encryption key',
    },
  ],
  canPack: true,
  probe({ head }) {
    if (head.length < headerBytes) return 0;
    const view = viewOf(head);
    return view.getUint32(0) === magic && view.getUint32(4) === 1 ? 100 : 0;
  },
  open: openQcow,
  async references(source) {
    const backing = await readBacking(source, await readQcowHeader(source));
    return backing ? [{ role: 'backing file', ...backing }] : [];
  },
  create: createQcow,
};

/** Lays an empty image into `store`, byte for byte as qemu-img does. */
async function createQcow(
  store: ByteStore,
  size: number,
  options: OptionValues,
  context: CreateContext,
): Promise<void> {
  const { name: path } = store;
  for (const field of ['encryption', 'encrypt.format', 'encrypt.key-secret']) {
    if (options[field] === undefined || options[field] === false) continue;
    throw new DiskError('unsupported', 'Encrypted qcow images are not supported', { path, field });
  }
  if (size === 0) {
    throw new DiskError('bad-argument', 'Image size is too small, cannot be zero length', {
      path,
      field: 'size',
    });
  }
  const guestSize = alignUp(size, 512);
  const header = encodeHeader(guestSize, context.backing?.path);
  const l1Size = l1SizeOf({ size: guestSize, clusterBits: header[32], l2Bits: header[33] });
  if (store.size > 0 && !hasFixedSize(store)) await store.resize(0);
  await store.write(0, header);
  await store.zero(header.length, alignUp(l1Size * 8, 512), { punch: true });
}
