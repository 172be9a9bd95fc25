import { alignUp, unitsOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { CreateContext, OptionValues } from '../driver.ts';
import {
  defaultEntries,
  defaultGrainBytes,
  embeddedDescriptorBytes,
  Flag,
  Marker,
  noParent,
  sectorBytes,
} from './constants.ts';
import { type ExtentLine, encodeDescriptor, looksLikeDescriptor, newContentId } from './descriptor.ts';
import { unsupported } from './errors.ts';
import { directoryLength, encodeSparseHeader, isHosted, type SparseHeader } from './header.ts';
import { readDescriptor } from './open.ts';
import { type CreateWish, readCreateOptions } from './options.ts';
import { marker } from './stream-end.ts';

/** Guest bytes in one file of a split image. */
const splitBytes = 2 ** 31;

/** Lays an empty image into `store`, and its extents into files beside it. Throws `bad-argument`, `unsupported`. */
export async function createVmdk(
  store: ByteStore,
  size: number,
  options: OptionValues,
  context: CreateContext,
): Promise<void> {
  const wish = readCreateOptions(options, store.name, context.backing !== undefined);
  const capacity = alignUp(size, sectorBytes);
  const parentCid = await parentCidOf(store.name, context);
  await store.resize(0);
  const { split, flat } = wish;
  const type = flat ? 'FLAT' : 'SPARSE';
  const extents: ExtentLine[] = [];
  let header: SparseHeader | undefined;
  if (!split && !flat) {
    header = await laySparse(store, capacity, wish);
    extents.push({ access: 'RW', sectors: capacity / sectorBytes, type, file: nameOf(store.name, context) });
  } else {
    const bytes = split ? splitBytes : capacity;
    for (let start = 0; start < capacity; start += bytes) {
      const file = extentName(nameOf(store.name, context), extents.length + 1, wish);
      const length = Math.min(bytes, capacity - start);
      const extent = await sibling(store.name, file, context);
      if (flat) await extent.resize(length);
      else await laySparse(extent, length, wish);
      extents.push({ access: 'RW', sectors: length / sectorBytes, type, file, offset: flat ? 0 : undefined });
      context.onProgress?.(start + length, capacity);
    }
  }
  const text = encodeDescriptor({
    ...wish,
    cid: newContentId(),
    parentCid,
    createType: wish.subformat,
    parent: context.backing?.path,
    extents,
    size: capacity,
  });
  if (header && text.length > header.descriptorBytes) {
    throw new DiskError(
      'out-of-range',
      `The descriptor has ${text.length} bytes, more than there is room for`,
      {
        path: store.name,
        field: 'descriptor',
      },
    );
  }
  await store.write(header ? header.descriptorAt : 0, text);
}

/** Lays an empty sparse extent out as QEMU does, or the empty stream that has its tables at the end. */
async function laySparse(store: ByteStore, capacity: number, wish: CreateWish): Promise<SparseHeader> {
  const count = directoryLength({ capacity, entries: defaultEntries, grainBytes: defaultGrainBytes });
  const directoryBytes = alignUp(count * 4, sectorBytes);
  const tablesAt = sectorBytes + embeddedDescriptorBytes;
  await store.resize(0);
  const common = {
    capacity,
    grainBytes: defaultGrainBytes,
    descriptorAt: sectorBytes,
    descriptorBytes: embeddedDescriptorBytes,
    entries: defaultEntries,
    compressed: wish.packed,
  };
  const zeroGrains = wish.zeroedGrain ? Flag.zeroGrains : 0;
  if (wish.packed) {
    const header: SparseHeader = {
      ...common,
      version: 3,
      flags: Flag.newlines | Flag.compressed | Flag.markers | zeroGrains,
      copyAt: 0,
      directoryAt: undefined,
      // Room for a directory without tables, which holds until there are some (stream-end.ts).
      overhead: alignUp(tablesAt + directoryBytes, defaultGrainBytes),
    };
    await layStream(store, header, directoryBytes);
    return header;
  }
  const tableBytes = defaultEntries * 4;
  const half = directoryBytes + count * tableBytes;
  const header: SparseHeader = {
    ...common,
    version: wish.zeroedGrain ? 2 : 1,
    flags: Flag.newlines | Flag.redundant | zeroGrains,
    copyAt: tablesAt,
    directoryAt: tablesAt + half,
    overhead: alignUp(tablesAt + 2 * half, defaultGrainBytes),
  };
  if (unitsOf(header.overhead, sectorBytes) > 0xffffffff) {
    throw unsupported(store.name, 'size', 'The tables of so large a disk do not fit into the file', {
      errno: 'EFBIG',
    });
  }
  await store.write(0, encodeSparseHeader(header));
  await store.resize(header.overhead);
  for (const at of [header.copyAt, tablesAt + half]) {
    const bytes = new Uint8Array(directoryBytes);
    const view = new DataView(bytes.buffer);
    for (let index = 0; index < count; index++) {
      view.setUint32(index * 4, (at + directoryBytes + index * tableBytes) / sectorBytes, true);
    }
    await store.write(at, bytes);
  }
  return header;
}

/** Header, room, an empty directory, footer, end. */
async function layStream(store: ByteStore, header: SparseHeader, directoryBytes: number): Promise<void> {
  const directoryAt = header.overhead + sectorBytes;
  const footerAt = directoryAt + directoryBytes;
  await store.write(0, encodeSparseHeader(header));
  await store.write(header.overhead, marker(Marker.grainDirectory, directoryBytes / sectorBytes));
  await store.resize(footerAt + 3 * sectorBytes);
  await store.write(footerAt, marker(Marker.footer, 1));
  await store.write(footerAt + sectorBytes, encodeSparseHeader({ ...header, directoryAt }));
}

function nameOf(path: string, context: CreateContext): string {
  return context.name ?? path.slice(path.lastIndexOf('/') + 1);
}

/** `disk.vmdk` has `disk-flat.vmdk`, or `disk-f001.vmdk` and `disk-s001.vmdk` and so on. */
function extentName(name: string, number: number, { split, flat }: CreateWish): string {
  const dot = name.lastIndexOf('.');
  const [stem, ending] = dot < 0 ? [name, ''] : [name.slice(0, dot), name.slice(dot)];
  const part = split ? `${flat ? 'f' : 's'}${String(number).padStart(3, '0')}` : 'flat';
  return `${stem}-${part}${ending}`;
}

function sibling(path: string, name: string, context: CreateContext): Promise<ByteStore> {
  if (context.sibling) return context.sibling(name);
  throw unsupported(
    path,
    'subformat',
    'This subformat has files of its own, and nothing was given to make them with',
  );
}

/** The content ID of the image that the new one stands on. */
async function parentCidOf(path: string, context: CreateContext): Promise<number> {
  const { backing, openBacking } = context;
  if (!backing) return noParent;
  if (!openBacking) {
    throw unsupported(
      path,
      'backing_file',
      'The backing image must be read, and nothing was given to open it with',
    );
  }
  await using source = await openBacking();
  const head = new Uint8Array(Math.min(sectorBytes, source.size));
  await source.read(0, head);
  if (!isHosted(head) && !looksLikeDescriptor(head)) {
    const message = 'Invalid backing file format: raw. Must be vmdk';
    throw new DiskError('bad-argument', message, { path, field: 'backing_file' });
  }
  return (await readDescriptor(source)).placed.descriptor.cid;
}
