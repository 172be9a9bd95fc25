import type { LayerDetails } from '../driver.ts';
import type { Extent } from './extent.ts';
import type { VmdkLayer } from './layer.ts';

/** What `info` says of a VMDK image. */
export function detailsOf(layer: VmdkLayer): LayerDetails {
  const { extents, cid, parentCid, createType } = layer;
  const [first] = extents;
  const alike = extents.every(
    (extent) => extent.grain === first.grain && extent.compressed === first.compressed,
  );
  return {
    clusterSize: alike ? first?.grain : undefined,
    dirty: alike ? false : undefined,
    formatSpecific: {
      type: 'vmdk',
      data: { cid, 'parent-cid': parentCid, 'create-type': createType, extents: extents.map(extentInfo) },
    },
  };
}

function extentInfo({ start, end, source, type, grain, compressed }: Extent) {
  return {
    'virtual-size': end - start,
    filename: source?.name ?? '',
    format: type ?? '',
    'cluster-size': grain,
    compressed: compressed || undefined,
  };
}
