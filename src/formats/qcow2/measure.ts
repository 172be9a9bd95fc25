import { bytesOf } from '../../bytes/byte-text.ts';
import { wipe } from '../../crypto/bytes.ts';
import { DiskError } from '../../errors.ts';
import type { MeasuredBitmap, Measurement, MeasureRequest, OptionValues } from '../driver.ts';
import { requireSecret } from '../encryption.ts';
import * as c from './constants.ts';
import { readEncryption } from './options.ts';

/** What of the creation options the size of the file depends on. */
interface Shape {
  readonly version: 2 | 3;
  readonly clusterSize: bigint;
  readonly refcountBits: bigint;
  readonly l2EntryBytes: bigint;
  readonly preallocated: boolean;
}

/** The names that QEMU knows here; at creation it takes v2 and v3 too. */
const versions: Readonly<Record<string, 2 | 3>> = { '0.10': 2, '1.1': 3 };

/**
 * How large an image's file would be, as QEMU computes it: with all metadata that a full image needs, so `required` is
 * never too small. Throws `bad-argument` in QEMU's words; options that do not matter for the size are not looked at.
 */
export async function measureQcow2(request: MeasureRequest): Promise<Measurement> {
  const { options, content } = request;
  const shape = shapeOf(options);
  const { clusterSize, l2EntryBytes } = shape;
  const size = roundUp(request.size, clusterSize);
  const l2Tables = divideUp(size / clusterSize, clusterSize / l2EntryBytes);
  if (l2Tables * BigInt(c.entryBytes) > BigInt(c.maxL1Bytes)) {
    fail('size', 'The image size is too large (try using a larger cluster size)');
  }
  let data = 0n;
  if (shape.preallocated) data = size;
  else if (content) {
    // How much of the content a backing file would hold already is not known.
    data = options.backing_file === undefined ? BigInt(await content.used(Number(clusterSize))) : size;
  }
  const metadata = metadataBytes(size, shape);
  const bitmaps =
    content?.bitmaps && shape.version >= 3
      ? bitmapBytes(request.size, content.bitmaps, clusterSize)
      : undefined;
  const crypto = await cryptoBytes(request, clusterSize);
  return { required: metadata + crypto + data, fullyAllocated: metadata + crypto + size, bitmaps };
}

/** The LUKS header of an encrypted image. Throws as creating it does. */
async function cryptoBytes(request: MeasureRequest, clusterSize: bigint): Promise<bigint> {
  const { options } = request;
  if (options['encrypt.format'] !== 'luks') return 0n;
  wipe(await requireSecret(request, options['encrypt.key-secret'], 'encrypt.'));
  return roundUp(BigInt(readEncryption(options)!.plan.payloadOffset), clusterSize);
}

function shapeOf(options: OptionValues): Shape {
  const extended = options.extended_l2 === true;
  const clusterSize = Number(options.cluster_size ?? 65536);
  const clusterBits = Math.log2(clusterSize);
  if (
    !(Number.isInteger(clusterBits) && clusterBits >= c.minClusterBits && clusterBits <= c.maxClusterBits)
  ) {
    fail('cluster_size', 'Cluster size must be a power of two between 512 and 2048k');
  }
  if (extended && clusterBits < 14) {
    fail('cluster_size', 'Extended L2 entries are only supported with cluster sizes of at least 16384 bytes');
  }
  const compat = String(options.compat ?? '1.1');
  const version = versions[compat] ?? fail('compat', `Invalid compatibility level: '${compat}'`);
  const refcountBits = Number(options.refcount_bits ?? 16);
  const order = Math.log2(refcountBits);
  if (!(Number.isInteger(order) && order >= 0 && order <= 6)) {
    fail('refcount_bits', 'Refcount width must be a power of two and may not exceed 64 bits');
  }
  if (version < 3 && refcountBits !== 16) {
    fail(
      'refcount_bits',
      'Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)',
    );
  }
  const preallocation = String(options.preallocation ?? 'off');
  if (!['off', 'metadata', 'falloc', 'full'].includes(preallocation)) {
    fail('preallocation', `invalid parameter value: ${preallocation}`);
  }
  return {
    version,
    clusterSize: BigInt(clusterSize),
    refcountBits: BigInt(refcountBits),
    l2EntryBytes: BigInt(extended ? c.extendedEntryBytes : c.entryBytes),
    preallocated: preallocation === 'falloc' || preallocation === 'full',
  };
}

/** Header, L1 and L2 tables, and the refcounts of all that and of the guest's `size` bytes. */
function metadataBytes(size: bigint, shape: Shape): bigint {
  const { clusterSize, l2EntryBytes, refcountBits } = shape;
  const entryBytes = BigInt(c.entryBytes);
  const l2Bytes = roundUp((size / clusterSize) * l2EntryBytes, clusterSize);
  const l1Bytes = roundUp((l2Bytes / clusterSize) * entryBytes, clusterSize);
  const bytes = clusterSize + l2Bytes + l1Bytes;
  const counted = (bytes + size) / clusterSize;
  const countsABlock = (clusterSize * 8n) / refcountBits;
  // Refcounts count the clusters of their own blocks and table too: the fixed point of that.
  let blocks = 0n;
  let table = 0n;
  for (;;) {
    const before = blocks + table;
    blocks = divideUp(counted + before, countsABlock);
    table = divideUp(blocks, clusterSize / entryBytes);
    if (blocks + table === before) return bytes + before * clusterSize;
  }
}

/** Every bitmap with all its bits, its table, and the directory. */
function bitmapBytes(size: bigint, bitmaps: readonly MeasuredBitmap[], clusterSize: bigint): bigint {
  let bytes = 0n;
  let directory = 0n;
  for (const { name, granularity } of bitmaps) {
    const clusters = divideUp(divideUp(divideUp(size, BigInt(granularity)), 8n), clusterSize);
    bytes += clusters * clusterSize + roundUp(clusters * BigInt(c.entryBytes), clusterSize);
    directory += roundUp(BigInt(24 + bytesOf(name).length), 8n);
  }
  return bytes + roundUp(directory, clusterSize);
}

function divideUp(value: bigint, by: bigint): bigint {
  return (value + by - 1n) / by;
}

function roundUp(value: bigint, to: bigint): bigint {
  return divideUp(value, to) * to;
}

function fail(field: string, message: string): never {
  throw new DiskError('bad-argument', message, { field });
}
