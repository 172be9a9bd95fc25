import type { SparseBits } from '../../bytes/sparse-bits.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { BackingReference, Layer, LayerDetails, OpenContext } from '../driver.ts';
import { HostSpace } from '../mapped/host-space.ts';
import { MappedLayer } from '../mapped/layer.ts';
import { WritableMappedLayer } from '../mapped/writable-layer.ts';
import { blockUse, mapOf } from './block-map.ts';
import {
  blockBytes,
  encodeAllocated,
  headerBytes,
  ImageType,
  layoutFault,
  parseHeader,
  type VdiHeader,
} from './header.ts';

const details: LayerDetails = { clusterSize: blockBytes, dirty: false };

/** A VDI image of any type, open for reading. */
class VdiLayer extends MappedLayer {
  readonly header: VdiHeader;

  constructor(source: ByteSource, header: VdiHeader) {
    super({
      format: 'vdi',
      map: mapOf(source, header),
      size: header.diskSize,
      backing: parentOf(header),
      details,
      mayBeSparse: header.imageType === ImageType.static,
    });
    this.header = header;
  }

  /** Throws `changed` where the parent is another image, or was written since this one was laid over it. */
  assertBacking(backing: Layer): void {
    const { parent, parentModification } = this.header;
    if (!(backing instanceof VdiLayer) || parent === undefined) return;
    const { uuid, modification } = backing.header;
    if (uuid === parent && (parentModification === undefined || parentModification === modification)) return;
    const why = uuid === parent ? 'was changed after this one was laid over it' : `is ${uuid}`;
    throw new DiskError('changed', `The parent should be the image with UUID ${parent}; this one ${why}`, {
      path: backing.source.name,
      field: 'uuid',
      detail: { own: true },
    });
  }
}

/** Reads the header. Throws `corrupt` and `unsupported`. */
export async function readVdiHeader(source: ByteSource): Promise<VdiHeader> {
  const bytes = new Uint8Array(Math.min(headerBytes, source.size));
  await source.read(0, bytes);
  return parseHeader(bytes, source.name);
}

export async function openVdi(source: ByteSource, context: OpenContext): Promise<Layer> {
  const header = await readVdiHeader(source);
  if (!context.writable || context.metadataOnly || context.checking) return new VdiLayer(source, header);
  if (header.parent !== undefined || header.imageType === ImageType.differencing) {
    throw new DiskError('unsupported', 'Differencing VDI images can only be read', {
      path: source.name,
      field: 'image_type',
    });
  }
  return openForWriting(source as ByteStore, header);
}

async function openForWriting(store: ByteStore, header: VdiHeader): Promise<WritableMappedLayer> {
  const misplaced = layoutFault(header);
  if (misplaced) {
    throw new DiskError('corrupt', `The image cannot be written: ${misplaced}`, {
      path: store.name,
      field: 'offset_data',
      detail: { errno: 'EIO', mapOffset: header.mapOffset, dataOffset: header.dataOffset },
    });
  }
  const { used, end } = await blockUse(store, header);
  const hostOf = (block: number) => header.dataOffset + block * blockBytes;
  const space = new HostSpace({
    path: store.name,
    limit: hostOf(header.blocks),
    end: hostOf(end),
    grain: blockBytes,
    unit: 512,
    gaps: gapsBefore(end, used, hostOf),
  });
  let counted = header.allocatedBlocks;
  return new WritableMappedLayer({
    format: 'vdi',
    map: mapOf(store, header),
    size: header.diskSize,
    details,
    mayBeSparse: header.imageType === ImageType.static,
    store,
    space,
    // VirtualBox and QEMU put the next block at the count, so it goes first: after a cut it may be too large, which
    // costs space, and never too small, which would cost data.
    async countSpace() {
      const end = (space.end - header.dataOffset) / blockBytes;
      if (end === counted) return;
      const { at, bytes } = encodeAllocated(end);
      await store.write(at, bytes);
      counted = end;
    },
  });
}

/** Host offsets of blocks before `end` that nobody uses, rising. */
function* gapsBefore(end: number, used: SparseBits, hostOf: (block: number) => number): Generator<number> {
  for (let block = used.firstAbsent(0); block < end; block = used.firstAbsent(block + 1)) yield hostOf(block);
}

/** VirtualBox knows parents by their UUID, and names the files of snapshots by it. */
function parentOf({ parent }: VdiHeader): BackingReference | undefined {
  if (parent === undefined) return undefined;
  return {
    path: `{${parent}}.vdi`,
    format: 'vdi',
    advice:
      `The parent of this image, known only by its UUID ${parent}, is not beside it; name it: ` +
      '--image-opts driver=vdi,file.filename=IMAGE,backing.driver=vdi,backing.file.filename=PARENT',
  };
}
