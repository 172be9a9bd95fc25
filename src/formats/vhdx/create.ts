import { guidText, randomGuid } from '../../bytes/guid.ts';
import { alignUp, viewOf } from '../../bytes/numbers.ts';
import { type ByteStore, hasFixedSize } from '../../storage/store.ts';
import type { CreateContext, OptionValues } from '../driver.ts';
import { BlockTable, layoutOf } from './block-table.ts';
import {
  alignment,
  BlockState,
  headerOffsets,
  KiB,
  logSectorBytes,
  MiB,
  regionTableOffsets,
  zeroGuid,
} from './constants.ts';
import { unsupported } from './errors.ts';
import { encodeHeader } from './header.ts';
import { encodeMetadata } from './metadata.ts';
import { parseCreateOptions, type VhdxCreateOptions } from './options.ts';
import { encodeRegions, type Region } from './regions.ts';

/** Room behind the metadata for what may come to be, as QEMU leaves it. */
const spareBytes = 4 * MiB;
const sectorSize = 512;

/**
 * Lays an empty image into `store`, laid out as qemu-img does: headers, log, table, metadata, blocks. In a fixed disk
 * every block has its place. Throws `bad-argument` and `out-of-range` for options.
 */
export async function createVhdx(
  store: ByteStore,
  size: number,
  values: OptionValues,
  context: CreateContext,
): Promise<void> {
  if (context.backing) {
    throw unsupported(store.name, 'backing_file', "Backing file not supported for file format 'vhdx'");
  }
  const options = parseCreateOptions(size, values);
  const disk = { ...options, logicalSectorSize: sectorSize };
  const bat = place(MiB + options.logSize, alignUp(tableBytes(options), alignment));
  const metadata = place(bat.to, MiB);
  const dataAt = metadata.to + spareBytes;
  const layout = layoutOf(disk, false);
  const table = new BlockTable(layout, new Uint8Array(alignUp(layout.entries * 8, logSectorBytes)));
  for (let block = 0; block < layout.blocks; block++) {
    if (options.fixed) {
      table.set(table.entryOf(block), BlockState.fullyPresent, dataAt + block * options.blockSize);
    } else if (options.stateZero) table.set(table.entryOf(block), BlockState.zero, 0);
  }
  const device = hasFixedSize(store);
  if (store.size > 0 && !device) await store.resize(0);
  if (!device) await store.resize(dataAt + (options.fixed ? layout.blocks * options.blockSize : 0));
  // What lies on a device may look like a log or a table.
  else await store.zero(0, dataAt);
  await store.write(0, encodeFileIdentifier());
  const header = {
    sequence: BigInt(viewOf(randomGuid()).getUint32(0)),
    fileWriteId: guidText(randomGuid()),
    dataWriteId: guidText(randomGuid()),
    logId: zeroGuid,
    logVersion: 0,
    logLength: options.logSize,
    logOffset: MiB,
  };
  await store.write(headerOffsets[0], encodeHeader(header));
  await store.write(headerOffsets[1], encodeHeader({ ...header, sequence: header.sequence + 1n }));
  const regions = encodeRegions({ bat, metadata });
  for (const at of regionTableOffsets) await store.write(at, regions);
  if (options.fixed || options.stateZero) await store.write(bat.from, table.bytes);
  await store.write(
    metadata.from,
    encodeMetadata({
      ...disk,
      leaveAllocated: options.fixed,
      physicalSectorSize: sectorSize,
      diskId: randomGuid(),
    }),
  );
}

function place(from: number, length: number): Region {
  return { from, to: from + length };
}

/** QEMU reckons the table of a disk without a byte by a count of blocks that has gone below zero, and insists on it. */
function tableBytes(options: VhdxCreateOptions): number {
  const layout = layoutOf({ ...options, logicalSectorSize: sectorSize }, false);
  return 8 * (layout.blocks === 0 ? Math.floor(0xffff_ffff / layout.chunkRatio) : layout.entries);
}

/** The file type identifier (MS-VHDX 2.2.1) with its creator, for people to read. */
function encodeFileIdentifier(): Uint8Array {
  const bytes = new Uint8Array(64 * KiB);
  const text = 'vhdxfile';
  for (let index = 0; index < text.length; index++) bytes[index] = text.charCodeAt(index);
  const creator = 'Cowherd';
  for (let index = 0; index < creator.length; index++) bytes[8 + index * 2] = creator.charCodeAt(index);
  return bytes;
}
