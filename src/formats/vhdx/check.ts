import { type CheckOptions, type CheckResult, isWritable, type Layer } from '../driver.ts';
import type { VhdxLayer } from './layer.ts';
import { findTableFaults } from './table-faults.ts';

/** Checks the block allocation table against the file, as QEMU does. A log was carried out at opening: one repair. */
export async function checkVhdx(layer: Layer, options: CheckOptions): Promise<CheckResult> {
  const { parts, source } = layer as VhdxLayer;
  let corruptions = 0;
  for (const { message } of findTableFaults(parts, source.size)) {
    corruptions++;
    options.onFinding?.({ kind: 'corruption', message, reported: true });
  }
  const corruptionsFixed = parts.replayed && isWritable(layer) ? 1 : 0;
  return { corruptions, corruptionsFixed, leaks: 0, leaksFixed: 0, checkErrors: 0 };
}
