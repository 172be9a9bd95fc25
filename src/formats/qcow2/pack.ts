import { alignDown } from '../../bytes/numbers.ts';
import { whoPacks } from '../../codecs/codec.ts';
import { packedHigh, packedOffsetLimit } from './entry.ts';
import { unsupported } from './errors.ts';
import { dropReference } from './free-entry.ts';
import { reserve } from './reserve.ts';
import { zeroWord } from './subclusters.ts';
import { codecFor } from './unpack.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Stores one guest cluster in packed form; in plain form where packing does not make it smaller. Calls may
 * overlap: packing then uses several cores, while the results are written in the order of the calls.
 */
export async function pack(writer: Qcow2Writer, offset: number, bytes: Uint8Array): Promise<void> {
  const { clusterSize } = writer.mapping.geometry;
  if (writer.mapping.geometry.externalData) {
    const message = 'Compressed clusters cannot be written to an external data file';
    throw unsupported(writer.store.name, 'data_file', message, { errno: 'ENOTSUP' });
  }
  const { compressionType } = writer.header;
  const codec = codecFor(writer.store.name, compressionType);
  if (!codec.pack) {
    const message = `The ${codec.name} codec of this runtime cannot compress: ${whoPacks(codec.name)}`;
    throw unsupported(writer.store.name, 'compression_type', message);
  }
  const cluster = bytes.length === clusterSize ? bytes : padded(bytes, clusterSize);
  const before = writer.packingTurn;
  let finished: (() => void) | undefined;
  writer.packingTurn = new Promise((resolve) => {
    finished = resolve;
  });
  try {
    const packed = await codec.pack(cluster, clusterSize - 1).finally(() => before);
    if (packed && (await writePacked(writer, offset, packed))) return;
    await writePlain(writer, offset, cluster);
  } finally {
    finished?.();
  }
}

function padded(bytes: Uint8Array, length: number): Uint8Array {
  const whole = new Uint8Array(length);
  whole.set(bytes);
  return whole;
}

/** Subclusters that have space, and those that have none, come one after the other. */
async function writePlain(writer: Qcow2Writer, offset: number, cluster: Uint8Array): Promise<void> {
  for (let done = 0; done < cluster.length; ) {
    const place = await reserve(writer, offset + done, cluster.length - done);
    try {
      const skip = offset + done - place.offset;
      const part = cluster.subarray(done, done + place.length - skip);
      await place.store.write(place.at + skip, part);
      place.publish();
      done += part.length;
    } finally {
      await place[Symbol.asyncDispose]();
    }
  }
}

/** False: the place found lies past what an entry for packed clusters can name. */
function writePacked(writer: Qcow2Writer, offset: number, packed: Uint8Array): Promise<boolean> {
  return writer.mutex.run(async () => {
    await writer.prepare();
    writer.tracking?.touch(offset, writer.mapping.geometry.clusterSize);
    await writer.relieve();
    const { mapping, store } = writer;
    const { clusterSize, clusterBits, extendedL2, l2Entries, l2EntryBytes, l2Span } = mapping.geometry;
    const table = await writer.tableForWriting(Math.floor(offset / l2Span));
    try {
      const at = await allocateBytes(writer, packed.length);
      if (at === undefined) return false;
      try {
        store.debugEvent?.('write_compressed');
        await store.write(at, packed);
      } catch (error) {
        await releaseBytes(writer, at, packed.length);
        throw error;
      }
      const entry = (Math.floor(offset / clusterSize) % l2Entries) * l2EntryBytes;
      mapping.tables.change(table, entry, entry + l2EntryBytes);
      const { view } = table;
      dropReference(writer, view.getUint32(entry), view.getUint32(entry + 4), false);
      view.setUint32(entry, packedHigh(at, packed.length, clusterBits));
      view.setUint32(entry + 4, at % 0x1_0000_0000);
      if (extendedL2) view.setBigUint64(entry + zeroWord, 0n);
      return true;
    } finally {
      table.pins--;
    }
  });
}

/**
 * Host bytes for a packed cluster: behind the last one where its host cluster has room (or the next host
 * cluster follows at once), else at the start of a new one. Each host cluster counts one reference more.
 */
async function allocateBytes(writer: Qcow2Writer, length: number): Promise<number | undefined> {
  const { refcounts } = writer;
  const { clusterSize, clusterBits } = writer.mapping.geometry;
  let at = writer.packingAt;
  const shared = Math.floor(at / clusterSize);
  if (at !== 0) {
    const references = await refcounts.get(shared);
    if (references === 0 || references >= refcounts.access.max) at = 0;
  }
  const room = at === 0 ? 0 : clusterSize - (at % clusterSize);
  if (room < length) {
    const { first } = await refcounts.allocate(1);
    const next = first * clusterSize;
    if (at !== 0 && next === at + room) await refcounts.addReference(shared);
    else at = next;
  } else {
    await refcounts.addReference(shared);
  }
  const end = at + length;
  if (end > packedOffsetLimit(clusterBits)) {
    await releaseBytes(writer, at, length);
    return undefined;
  }
  writer.packingAt = end % clusterSize === 0 ? 0 : end;
  return at;
}

async function releaseBytes(writer: Qcow2Writer, at: number, length: number): Promise<void> {
  const { clusterSize } = writer.mapping.geometry;
  const first = Math.floor(at / clusterSize);
  const end = alignDown(at + length - 1, clusterSize) / clusterSize;
  writer.packingAt = 0;
  await writer.refcounts.release(first, end - first + 1);
}
