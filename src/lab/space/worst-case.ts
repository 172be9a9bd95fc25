import { measureQcow2 } from '../../formats/qcow2/measure.ts';

/** What a qcow2 file takes once every cluster of its `size` guest bytes is written, in bytes. Snapshots come on top. */
export async function fullBytes(size: number): Promise<number> {
  const { fullyAllocated } = await measureQcow2({ size: BigInt(size), options: {} });
  return Number(fullyAllocated);
}
