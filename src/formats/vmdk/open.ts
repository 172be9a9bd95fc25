import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { HeaderReference, OpenContext } from '../driver.ts';
import { Flag, Marker, maxDescriptorBytes, sectorBytes } from './constants.ts';
import { cowdEntries, isCowd, parseCowdHeader } from './cowd.ts';
import { type Descriptor, type ExtentLine, parseDescriptor } from './descriptor.ts';
import { corrupt, invalid, unsupported } from './errors.ts';
import { EmptyExtent, type Extent, FlatExtent } from './extent.ts';
import { readDirectory } from './grain-tables.ts';
import { directoryLength, isHosted, parseSparseHeader, type SparseHeader } from './header.ts';
import { assertParent, closeAll, type PlacedDescriptor, VmdkLayer, WritableVmdkLayer } from './layer.ts';
import { SeSparseExtent } from './se-sparse.ts';
import { SparseExtent, type SparseShape } from './sparse-extent.ts';
import { SparseWriter } from './sparse-writer.ts';
import { StreamEnd } from './stream-end.ts';

/** Types of descriptors that list extents in files. Those of physical disks are not among them. */
const listedTypes = new Set(
  (
    'monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat 2GbMaxExtentSparse 2GbMaxExtentFlat ' +
    'streamOptimized vmfs vmfsSparse vmfsThin vmfsEagerZeroedThick vmfsPreallocated seSparse custom'
  ).split(' '),
);

/** Of all extents of an image: what a disk of 512 TiB has in grains of 64 KiB. */
const maxDirectoryBytes = 64 << 20;

/** Where extents tell that something is about to change: the layer, which is made after them. */
interface Touchable {
  touch: () => Promise<void>;
}

/** Opens an image with all its extents. Throws `corrupt`, `unsupported`, and what opening the extents throws. */
export async function openVmdk(source: ByteSource, context: OpenContext): Promise<VmdkLayer> {
  const hook: Touchable = { touch: async () => undefined };
  const { placed, header } = await readDescriptor(source);
  if (!context.metadataOnly) assertParent(placed.descriptor, source.name);
  const extents = header
    ? [await openHosted(source, header, undefined, context.writable, hook)]
    : await openListed(source, placed.descriptor, context, hook);
  const createType = extents.some(({ compressed }) => compressed) ? 'streamOptimized' : placed.createType;
  const whole = { ...placed, createType };
  if (!context.writable) return new VmdkLayer(source, whole, extents);
  const layer = new WritableVmdkLayer(source as ByteStore, whole, extents);
  hook.touch = () => layer.touch();
  return layer;
}

/** The files that the descriptor names. Throws `corrupt` for one that is none. */
export async function referencesOf(source: ByteSource): Promise<readonly HeaderReference[]> {
  const { placed, header } = await readDescriptor(source);
  const { parent, extents } = placed.descriptor;
  const found: HeaderReference[] = [];
  if (parent !== undefined) found.push({ role: 'backing file', path: parent, format: 'vmdk' });
  if (header) return found;
  for (const { file } of extents) if (file !== undefined) found.push({ role: 'extent', path: file });
  return found;
}

/** The descriptor, and the header of a sparse extent that has it inside. */
export async function readDescriptor(
  source: ByteSource,
): Promise<{ readonly placed: PlacedDescriptor; readonly header?: SparseHeader }> {
  const { name, size } = source;
  if (size < 4) {
    throw corrupt(name, 'descriptor', 'File is too small, not a valid image', { errno: 'EINVAL' });
  }
  const head = await readUpTo(source, 0, sectorBytes);
  if (isCowd(head)) throw invalid(name, 'descriptor');
  if (!isHosted(head)) {
    const descriptor = parseDescriptor(await readUpTo(source, 0, maxDescriptorBytes), name);
    const { createType } = descriptor;
    if (!listedTypes.has(createType)) {
      throw unsupported(name, 'createType', `Unsupported image type '${createType}'`);
    }
    return { placed: { descriptor, at: 0, createType } };
  }
  const header = parseSparseHeader(head, name);
  const { descriptorAt: at, descriptorBytes } = header;
  if (at === 0 || descriptorBytes === 0) throw invalid(name, 'descriptorOffset');
  const descriptor = parseDescriptor(
    await readUpTo(source, at, Math.min(descriptorBytes, maxDescriptorBytes)),
    name,
  );
  return { placed: { descriptor, at, createType: 'monolithicSparse' }, header };
}

async function readUpTo(source: ByteSource, at: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(Math.max(0, Math.min(length, source.size - at)));
  if (bytes.length > 0) await source.read(at, bytes);
  return bytes;
}

async function openListed(
  source: ByteSource,
  descriptor: Descriptor,
  context: OpenContext,
  hook: Touchable,
): Promise<Extent[]> {
  const extents: Extent[] = [];
  const sharers = descriptor.extents.length;
  let start = 0;
  let memory = 0;
  try {
    for (const line of descriptor.extents) {
      const end = start + line.sectors * sectorBytes;
      if (!Number.isSafeInteger(end)) throw corrupt(source.name, 'extent', 'The extents end past 2^53 bytes');
      const extent = await openLine(source, line, { start, end, type: line.type, sharers }, context, hook);
      extents.push(extent);
      memory += extent.directoryBytes ?? 0;
      if (memory > maxDirectoryBytes) {
        const message = `Grain directories of more than ${maxDirectoryBytes} bytes are not supported`;
        throw unsupported(source.name, 'extent', message);
      }
      start = end;
    }
    return extents;
  } catch (error) {
    await closeAll(extents).catch(() => undefined);
    throw error;
  }
}

interface Place {
  readonly start: number;
  readonly end: number;
  readonly type?: string;
  /** How many extents the image has. */
  readonly sharers: number;
}

async function openLine(
  source: ByteSource,
  line: ExtentLine,
  place: Place & { readonly type: string },
  context: OpenContext,
  hook: Touchable,
): Promise<Extent> {
  const { access, type } = line;
  if (line.file === undefined || access === 'NOACCESS') {
    return new EmptyExtent(source.name, { ...place, access });
  }
  if (!context.sibling) {
    throw unsupported(
      source.name,
      'extent',
      'The image has extents, and nothing was given to open them with',
    );
  }
  const writable = context.writable && access === 'RW';
  if (type === 'SESPARSE' && writable) {
    throw unsupported(source.name, 'extent', 'No write support for seSparse images available', {
      errno: 'EACCES',
    });
  }
  const flat = type !== 'SPARSE' && type !== 'VMFSSPARSE' && type !== 'SESPARSE';
  const file = await context.sibling(line.file, writable, !flat);
  try {
    if (flat) return new FlatExtent(file, { ...place, at: (line.offset ?? 0) * sectorBytes, writable, hook });
    if (type === 'SESPARSE') return await SeSparseExtent.open(file, place);
    const head = await readUpTo(file, 0, sectorBytes);
    if (isCowd(head)) return await openCowd(file, head, place, writable, hook);
    return await openHosted(file, parseSparseHeader(head, file.name), place, writable, hook);
  } catch (error) {
    await closeAll([file]).catch(() => undefined);
    throw error;
  }
}

/** `wanted`: what the descriptor says of its place; undefined: it is the whole disk. */
async function openHosted(
  source: ByteSource,
  first: SparseHeader,
  wanted: Place | undefined,
  writable: boolean,
  hook: Touchable,
): Promise<SparseExtent> {
  const header = first.directoryAt === undefined ? await readFooter(source) : first;
  const place = wanted ?? { start: 0, end: header.capacity, sharers: 1 };
  const { name, size } = source;
  if (header.version === 3 && writable && !header.compressed) {
    throw unsupported(name, 'version', 'VMDK version 3 must be read only', { errno: 'EINVAL' });
  }
  if (size < header.overhead) {
    const message = `File truncated, expecting at least ${header.overhead} bytes`;
    throw corrupt(name, 'overHead', message, { errno: 'EINVAL' });
  }
  if (header.capacity < place.end - place.start) {
    throw corrupt(name, 'capacity', 'The extent is shorter than its descriptor says');
  }
  const { capacity, grainBytes, entries, copyAt, overhead, compressed } = header;
  const { descriptorAt, descriptorBytes } = first;
  const directoryAt = header.directoryAt!;
  const shape: SparseShape = {
    capacity,
    grainBytes,
    entries,
    directoryAt,
    copyAt,
    descriptorEnd: Math.max(sectorBytes, descriptorAt + descriptorBytes),
    overhead,
    compressed,
    zeroGrains: (header.flags & Flag.zeroGrains) !== 0,
    markers: (header.flags & Flag.markers) !== 0,
  };
  const directory = await readDirectory(source, directoryAt, directoryLength(shape), 'gdOffset');
  const extent = new SparseExtent(source, shape, directory, place);
  if (!writable) return extent;
  // Tables in front that have copies are changed where they are; others were written behind the data.
  const streamed = compressed && shape.markers && copyAt === 0;
  if (
    compressed !== ((header.flags & Flag.compressed) !== 0) ||
    (!streamed && first.directoryAt === undefined)
  ) {
    throw unsupported(
      name,
      'flags',
      'The header says two things of compression: the extent can only be read',
    );
  }
  // The footer counts, but for the place of the descriptor.
  const rewritten = { ...header, descriptorAt, descriptorBytes, directoryAt: first.directoryAt };
  const stream = streamed ? new StreamEnd(source as ByteStore, rewritten, directoryAt) : undefined;
  extent.writer = new SparseWriter(extent, { touch: () => hook.touch(), stream });
  return extent;
}

/** The header that a stream has at its end, between two markers. Throws `corrupt`. */
async function readFooter(source: ByteSource): Promise<SparseHeader> {
  const at = source.size - (source.size % sectorBytes) - 3 * sectorBytes;
  const bytes = await readUpTo(source, Math.max(0, at), 3 * sectorBytes);
  const view = new DataView(bytes.buffer);
  const isMarker = (start: number, kind: number) =>
    view.getUint32(start + 8, true) === 0 && view.getUint32(start + 12, true) === kind;
  const right =
    at > 0 &&
    isHosted(bytes.subarray(sectorBytes)) &&
    isMarker(0, Marker.footer) &&
    isMarker(2 * sectorBytes, Marker.endOfStream) &&
    view.getUint32(2 * sectorBytes, true) === 0 &&
    view.getUint32(2 * sectorBytes + 4, true) === 0;
  const footer = right
    ? parseSparseHeader(bytes.subarray(sectorBytes, 2 * sectorBytes), source.name)
    : undefined;
  if (footer?.directoryAt === undefined) {
    throw corrupt(source.name, 'footer', 'Invalid footer', { errno: 'EINVAL' });
  }
  return footer;
}

async function openCowd(
  source: ByteSource,
  head: Uint8Array,
  place: Place,
  writable: boolean,
  hook: Touchable,
): Promise<SparseExtent> {
  const header = parseCowdHeader(head, source.name);
  if (header.capacity < place.end - place.start) {
    throw corrupt(source.name, 'numSectors', 'The extent is shorter than its descriptor says');
  }
  const shape: SparseShape = {
    capacity: header.capacity,
    grainBytes: header.grainBytes,
    entries: cowdEntries,
    directoryAt: header.directoryAt,
    copyAt: 0,
    descriptorEnd: 4 * sectorBytes,
    overhead: header.directoryAt + header.directory * 4,
    zeroGrains: false,
    compressed: false,
    markers: false,
    freeAt: header.freeAt,
  };
  const directory = await readDirectory(source, header.directoryAt, directoryLength(shape), 'gdOffset');
  const extent = new SparseExtent(source, shape, directory, place);
  if (writable) extent.writer = new SparseWriter(extent, { touch: () => hook.touch() });
  return extent;
}
