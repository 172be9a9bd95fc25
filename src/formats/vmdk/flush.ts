import { alignUp } from '../../bytes/numbers.ts';
import type { Table } from '../mapped/table.ts';
import { offerSpace } from '../offer-space.ts';
import { sectorBytes } from './constants.ts';
import { cowdFreeField } from './cowd.ts';
import type { SparseWriter } from './sparse-writer.ts';

/*
 * The order of writes, so that a power cut at any moment leaves at most lost space and copies of tables that are out of
 * date, and after a successful flush nothing that was flushed is missing. Entries of all tables are 4 bytes and never
 * cross a sector.
 *
 *   0. The content ID changes, durably, before anything else does: whoever stands on the image learns of it.
 *   1. Data goes to grains that no table names (or that were the guest's own); a COWD header learns where free space
 *      begins. The store is flushed.
 *   2. Changed parts of grain tables are written, and whole new ones to free space. The store is flushed.
 *   3. Then the copies of tables, and the directories where they name new tables; the store is flushed.
 *   4. Only now may grains that the tables have dropped be used again, and their space goes back to the host.
 *
 * A stream has its tables behind its data: see stream-end.ts.
 */

/** Makes the extent durable in the order above. The caller holds the mutex. */
export async function flushTables(writer: SparseWriter): Promise<void> {
  const { store, extent, stream } = writer;
  const { cache } = extent.tables;
  const frozen = cache.freeze();
  const freed = writer.freed;
  writer.freed = [];
  try {
    for (const { table } of frozen) if (table.at === 0 && !stream) placeTable(writer, table);
    if (!extent.compressed && store.size < writer.end) await store.resize(writer.end);
    if (extent.shape.freeAt !== undefined) await writeFreeField(writer);
    await store.flush();
    if (stream) {
      await stream.writeTables(writer, frozen);
      cache.thaw(frozen, true);
      return;
    }
    await writePieces(writer, frozen, (table) => table.at);
    if (frozen.length > 0) await store.flush();
    const { copies } = writer;
    if (copies) await writePieces(writer, frozen, (table) => copies[table.index] * sectorBytes);
    if (copies && writer.directoryTo > 0) await store.flush();
    await writeDirectories(writer);
    if (frozen.length > 0) await store.flush();
    cache.thaw(frozen, true);
  } catch (error) {
    cache.thaw(frozen, false);
    writer.freed.push(...freed);
    throw error;
  }
  await giveBack(writer, freed);
}

/** Gives a new table its place, and one for its copy. */
function placeTable(writer: SparseWriter, table: Table): void {
  const { grain, tables } = writer.extent;
  // Grains stay aligned.
  const room = alignUp(tables.tableBytes, grain);
  table.at = writer.allocate(room);
  writer.changeDirectory(table.index, table.at);
  if (writer.copies) writer.copies[table.index] = writer.allocate(room) / sectorBytes;
}

/** COWD: ahead of the tables, lest another program gives out what they name. */
async function writeFreeField(writer: SparseWriter): Promise<void> {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, writer.end / sectorBytes, true);
  await writer.store.write(cowdFreeField, bytes);
}

interface Piece {
  readonly table: Table;
  readonly bytes: Uint8Array;
  readonly from: number;
  readonly to: number;
}

/** Writes changed parts of tables, those that lie behind each other in one request. */
async function writePieces(
  writer: SparseWriter,
  pieces: readonly Piece[],
  placeOf: (table: Table) => number,
): Promise<void> {
  const { store } = writer;
  for (const { table, bytes, from, to } of pieces) {
    const at = placeOf(table);
    if (at === 0) continue;
    store.debugEvent?.('l2_update');
    await store.write(at + from, bytes.subarray(from, to));
  }
}

async function writeDirectories(writer: SparseWriter): Promise<void> {
  const { store, extent, directoryFrom: from, directoryTo: to } = writer;
  if (from >= to) return;
  const { directoryAt, copyAt } = extent.shape;
  const lists: [number, Uint32Array][] = [[directoryAt, extent.directory]];
  if (writer.copies) lists.push([copyAt, writer.copies]);
  for (const [at, list] of lists) {
    const bytes = new Uint8Array((to - from) * 4);
    const view = new DataView(bytes.buffer);
    for (let index = from; index < to; index++) view.setUint32((index - from) * 4, list[index], true);
    store.debugEvent?.('l1_update');
    await store.write(at + from * 4, bytes);
  }
  writer.directoryFrom = Number.POSITIVE_INFINITY;
  writer.directoryTo = 0;
}

/** Lets grains that nothing names any more be used again; their space goes back to the host in whole stretches. */
async function giveBack(writer: SparseWriter, freed: number[]): Promise<void> {
  const { grain } = writer.extent;
  freed.sort((a, b) => a - b);
  for (let index = 0; index < freed.length; ) {
    const at = freed[index];
    let end = at;
    for (; index < freed.length && freed[index] === end; index++) end += grain;
    await offerSpace(writer.store, at, end - at);
  }
  for (const at of freed) writer.free.push(at);
}
