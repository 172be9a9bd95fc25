import { guidText, randomGuid } from '../../bytes/guid.ts';
import { alignUp, viewOf } from '../../bytes/numbers.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import { type ByteStore, hasFixedSize } from '../../storage/store.ts';
import type { CreateContext, OptionValues } from '../driver.ts';
import { BlockTable, type Layout, layoutOf } from './block-table.ts';
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
import { readDisk, signatureField } from './open.ts';
import { parseCreateOptions } from './options.ts';
import { encodeParentLocator, newLocator } from './parent.ts';
import { encodeRegions, type Region } from './regions.ts';

/** Room behind the metadata for what may come to be, as QEMU leaves it. */
const spareBytes = 4 * MiB;

/**
 * Lays an empty image into `store`, laid out as qemu-img does: headers, log, table, metadata, blocks. In a fixed disk
 * every block has its place; over a backing image it is a differencing one, with that one's sectors and its identifier
 * to the guest. Throws `bad-argument` and `out-of-range` for options and for a parent that is no VHDX.
 */
export async function createVhdx(
  store: ByteStore,
  size: number,
  values: OptionValues,
  context: CreateContext,
): Promise<void> {
  const options = parseCreateOptions(size, values, context.backing !== undefined);
  const parent = context.backing ? await readParent(store.name, context) : undefined;
  const logicalSectorSize = parent?.disk.logicalSectorSize ?? 512;
  const disk = { ...options, size: alignUp(options.size, logicalSectorSize), logicalSectorSize };
  const layout = layoutOf(disk, parent !== undefined);
  const bat = place(MiB + options.logSize, alignUp(tableBytes(layout), alignment));
  const metadata = place(bat.to, MiB);
  const dataAt = metadata.to + spareBytes;
  const table = new BlockTable(layout, new Uint8Array(alignUp(layout.entries * 8, logSectorBytes)));
  for (let block = 0; block < layout.blocks; block++) {
    if (options.fixed) {
      table.set(table.entryOf(block), BlockState.fullyPresent, dataAt + block * options.blockSize);
    } else if (options.stateZero) table.set(table.entryOf(block), BlockState.zero, 0);
  }
  const device = hasFixedSize(store);
  if (store.size > 0 && !device) await store.resize(0);
  const needed = dataAt + (options.fixed ? layout.blocks * options.blockSize : 0);
  // A device says that it cannot grow.
  if (!device || needed > store.size) await store.resize(needed);
  // What lies on a device may look like a log or a table.
  if (device) await store.zero(0, dataAt);
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
      physicalSectorSize: parent?.disk.physicalSectorSize ?? 512,
      diskId: parent?.disk.diskId ?? randomGuid(),
      locator: parent && encodeParentLocator(parent.locator),
    }),
  );
}

async function readParent(path: string, context: CreateContext) {
  if (!context.openBacking) {
    const message = 'The backing image must be read, and nothing was given to open it with';
    throw unsupported(path, 'backing_file', message);
  }
  await using source = await context.openBacking();
  try {
    const { found, disk } = await readDisk(source);
    return { disk, locator: await newLocator(path, found.header.dataWriteId, context) };
  } catch (cause) {
    if (!isDiskError(cause, 'corrupt') || cause.field !== signatureField) throw cause;
    const message = 'Invalid backing file format. Must be vhdx';
    throw new DiskError('bad-argument', message, { path, field: 'backing_file', cause });
  }
}

function place(from: number, length: number): Region {
  return { from, to: from + length };
}

/** QEMU reckons the table of a disk without a byte by a count of blocks that has gone below zero, and insists on it. */
function tableBytes(layout: Layout): number {
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
