import { EntryKind, entryKind, entryOffset, packedExtent } from './entry.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * The map no longer holds this L2 entry: its clusters lose a reference, after the flush that makes that so on
 * disk. `punch`: the guest gave the space up, so the host gets it back. A packed cluster may touch several.
 *
 * An entry of a broken image may name the header or a table: those keep their reference, or they would be given
 * back, punched and written over.
 */
export function dropReference(writer: Qcow2Writer, high: number, low: number, punch: boolean): void {
  const { clusterSize, clusterBits, externalData } = writer.mapping.geometry;
  // Clusters of an external data file have no refcounts.
  if (externalData) return;
  const kind = entryKind(high, low, false);
  if (kind === EntryKind.hole || kind === EntryKind.zero) return;
  if (kind !== EntryKind.packed) {
    const cluster = Math.floor(entryOffset(high, low) / clusterSize);
    if (!writer.metadata.has(cluster)) writer.frees.add(cluster, 1, punch);
    return;
  }
  const { offset, length } = packedExtent(high, low, clusterBits);
  if (offset + length > Number.MAX_SAFE_INTEGER) return;
  const first = Math.floor(offset / clusterSize);
  const last = Math.floor((offset + length - 1) / clusterSize);
  for (let cluster = first; cluster <= last; cluster++) {
    if (!writer.metadata.has(cluster)) writer.frees.add(cluster, 1, punch);
  }
}
