import { alignDown } from '../../bytes/numbers.ts';
import type { ByteStore } from '../../storage/store.ts';
import { type CheckOptions, type CheckResult, type Finding, isWritable, type Layer } from '../driver.ts';
import { BlockLayer, unused } from './block-layer.ts';
import { dynamicHeaderBytes } from './dynamic-header.ts';
import type { FixedLayer } from './fixed-layer.ts';
import { checksumOf, footerBytes, footerFault } from './footer.ts';
import { sectorBytes } from './geometry.ts';
import { usedEnd } from './space.ts';

/**
 * Checks the copies of the footer against each other, the dynamic header's checksum and the table. Repairs what another
 * copy vouches for: a footer from the other one, the header's checksum when all its fields held when it was opened.
 */
export async function checkVpc(layer: Layer, options: CheckOptions): Promise<CheckResult> {
  const vpc = layer as BlockLayer | FixedLayer;
  const found: Finding[] = [];
  const store = isWritable(layer) ? (layer.source as ByteStore) : undefined;
  const tell: Tell = async (kind, message, offset, repair) => {
    const wanted = options.repair === 'all' || (options.repair === 'leaks' && kind === 'leak');
    const fixed = wanted && store !== undefined && repair !== undefined;
    if (fixed) await repair(store);
    const finding: Finding = { kind, message, offset, fixed };
    found.push(finding);
    options.onFinding?.(finding);
  };
  // A fixed disk has one footer, and what is wrong with that was found at opening.
  if (vpc instanceof BlockLayer) await checkBlocks(vpc, tell);
  if (store && found.some(({ fixed }) => fixed)) await store.flush();
  const count = (kind: Finding['kind'], fixed: boolean) =>
    found.filter((finding) => finding.kind === kind && finding.fixed === fixed).length;
  return {
    corruptions: count('corruption', false),
    corruptionsFixed: count('corruption', true),
    leaks: count('leak', false),
    leaksFixed: count('leak', true),
    checkErrors: 0,
    ...(vpc instanceof BlockLayer ? countBlocks(vpc) : {}),
  };
}

type Tell = (
  kind: 'leak' | 'corruption',
  message: string,
  offset: number,
  repair?: (store: ByteStore) => Promise<void>,
) => Promise<void>;

async function checkBlocks(layer: BlockLayer, tell: Tell): Promise<void> {
  const { source, footer, header } = layer;
  const head = await readBytes(source, 0, footerBytes);
  if (footerFault(head) !== undefined || !sameBytes(head, footer.bytes)) {
    await tell('corruption', 'The copy of the footer at the start of the file is wrong', 0, (store) =>
      store.write(0, footer.bytes),
    );
  }
  if (header.checksumWrong) {
    const at = footer.dataOffset!;
    await tell('corruption', 'The checksum of the dynamic disk header is wrong', at, async (store) => {
      const bytes = await readBytes(store, at, dynamicHeaderBytes);
      new DataView(bytes.buffer).setUint32(36, checksumOf(bytes, 36));
      await store.write(at, bytes);
    });
  }
  let used: number;
  try {
    used = usedEnd(layer);
  } catch {
    // Who knows then which bytes are a block's: nothing at the end is written.
    await tell('corruption', 'Blocks overlap each other or the tables', header.tableOffset);
    return;
  }
  await checkTail(layer, used, tell);
}

/**
 * Looks at the footer at the end, which a power cut may have taken: no harm to data as long as the other copy holds.
 * `used`: where the blocks end.
 */
async function checkTail(layer: BlockLayer, used: number, tell: Tell): Promise<void> {
  const { source, footer } = layer;
  for (const length of [footerBytes, footerBytes - 1]) {
    if (source.size < length) continue;
    const tail = await readBytes(source, source.size - length, length);
    if (sameBytes(tail, footer.bytes.subarray(0, length))) return;
  }
  await tell('leak', 'The footer at the end of the file is wrong', source.size, async (store) => {
    // Over the wrong one; never over a block.
    const at = Math.max(used, alignDown(store.size - footerBytes, sectorBytes));
    await store.write(at, footer.bytes);
    if (store.size !== at + footerBytes) await store.resize(at + footerBytes);
  });
}

function countBlocks(layer: BlockLayer): Pick<CheckResult, 'totalClusters' | 'allocatedClusters'> {
  const totalClusters = Math.ceil(layer.size / layer.blockSize);
  let allocatedClusters = 0;
  for (let block = 0; block < totalClusters; block++) if (layer.table[block] !== unused) allocatedClusters++;
  return { totalClusters, allocatedClusters };
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

async function readBytes(source: Layer['source'], at: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  if (at + length <= source.size) await source.read(at, bytes);
  return bytes;
}
