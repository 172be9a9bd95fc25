import { alignUp } from '../../bytes/numbers.ts';
import { type ByteSource, type ByteStore, bottomOf, hasFixedSize } from '../../storage/store.ts';
import type { Layer, OpenContext } from '../driver.ts';
import { BlockTable, layoutOf } from './block-table.ts';
import { BlockState, logSectorBytes, zeroGuid } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';
import { type FoundHeader, readHeader } from './header.ts';
import { Journal } from './journal.ts';
import { VhdxLayer, type VhdxParts } from './layer.ts';
import { readActiveLog } from './log.ts';
import { type DiskMetadata, readMetadata } from './metadata.ts';
import { type Regions, readRegions } from './regions.ts';
import { ReplayedSource, replayInPlace } from './replay.ts';
import { findTableFaults, firstFreeByte } from './table-faults.ts';
import { VhdxWriter } from './writer.ts';

/** 128 MiB of table: 16 TiB in blocks of 1 MiB, 512 TiB in those that Hyper-V makes. */
const maxTableBytes = 128 * 1024 * 1024;

/**
 * Opens a VHDX. What its log holds is carried out first: in the file when that is open for writing, else before the eyes
 * of the reader only.
 */
export async function openVhdx(source: ByteSource, context: OpenContext): Promise<Layer> {
  const { name: path } = source;
  await assertSignature(source);
  let found = await readHeader(source);
  const log = await readActiveLog(source, found.header);
  let replayed = source;
  if (log.length > 0 && context.writable) {
    await replayInPlace(source as ByteStore, log);
    const journal = new Journal(source as ByteStore, found);
    await journal.update({ logId: zeroGuid });
    found = journal.found;
  } else if (log.length > 0) replayed = new ReplayedSource(source, log);
  const regions = await readRegions(replayed, found.header);
  const disk = await readMetadata(replayed, regions.metadata);
  const table = await readTable(replayed, regions, disk);
  const parts: VhdxParts = { found, regions, disk, table, replayed: log.length > 0 };
  if (!context.checking) {
    for (const { message } of findTableFaults(parts, replayed.size)) {
      throw corrupt(path, 'block allocation table', regions.bat.from, message);
    }
  }
  if (!context.writable) return new VhdxLayer(replayed, parts);
  // A device keeps its size, which says nothing of what is in use.
  const fileSize = hasFixedSize(bottomOf(source)) ? 0 : source.size;
  const end = context.checking ? source.size : firstFreeByte(parts, fileSize, path);
  return new VhdxWriter(source as ByteStore, parts, end);
}

/** The field at fault where a file is no VHDX at all. */
export const signatureField = 'file type identifier';

/** What a differencing disk's header says of its parent, without opening more. */
export async function readDisk(source: ByteSource): Promise<{ found: FoundHeader; disk: DiskMetadata }> {
  await assertSignature(source);
  const found = await readHeader(source);
  const log = await readActiveLog(source, found.header);
  const replayed = log.length > 0 ? new ReplayedSource(source, log) : source;
  const regions: Regions = await readRegions(replayed, found.header);
  return { found, disk: await readMetadata(replayed, regions.metadata) };
}

async function assertSignature(source: ByteSource): Promise<void> {
  const bytes = new Uint8Array(8);
  if (source.size >= 8) await source.read(0, bytes);
  if (String.fromCharCode(...bytes) !== 'vhdxfile') throw corrupt(source.name, signatureField, 0);
}

async function readTable(source: ByteSource, regions: Regions, disk: DiskMetadata): Promise<BlockTable> {
  const { name: path } = source;
  const { bat } = regions;
  const layout = layoutOf(disk, disk.parent !== undefined);
  const bytes = layout.entries * 8;
  if (bytes > bat.to - bat.from) throw corrupt(path, 'block allocation table', bat.from);
  if (bytes > maxTableBytes) {
    const message = `Block allocation tables of more than ${maxTableBytes} bytes are not supported`;
    throw unsupported(path, 'block allocation table', message, { bytes });
  }
  // In whole log sectors, which the region has since it is whole MiB.
  const content = new Uint8Array(alignUp(bytes, logSectorBytes));
  if (bat.from + content.length > source.size) throw corrupt(path, 'block allocation table', bat.from);
  await source.read(bat.from, content);
  const table = new BlockTable(layout, content);
  for (let block = 0; block < layout.blocks; block++) {
    const entry = table.entryOf(block);
    const state = table.state(entry);
    const partial = state === BlockState.partiallyPresent && !disk.parent;
    if (state === 4 || partial) {
      throw corrupt(
        path,
        'block allocation table',
        bat.from + entry * 8,
        `Block ${block} has the state ${state}`,
      );
    }
  }
  return table;
}
