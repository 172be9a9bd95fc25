import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { isExt } from '../../filesystems/ext4/superblock.ts';
import { isFat } from '../../filesystems/fat/boot-sector.ts';
import { readPartitions } from '../../filesystems/partitions.ts';
import { foreignSignature } from '../../filesystems/signatures.ts';
import type { ByteSource } from '../../filesystems/source.ts';
import { type ChainRun, type Image, unfiltered } from '../../image/image.ts';
import { assertMadeOn } from '../standing/footing.ts';
import { assertSoundLayer, damaged } from './sound-image.ts';

export interface SourceOptions {
  /** What the image is called in errors. */
  readonly name: string;
  /** The format as the user has said it. Absent: it was guessed. */
  readonly format?: string;
  readonly signal?: AbortSignal;
}

const sector = 512;
/** As far as the marks of file systems and partition tables lie from the start. */
const headBytes = 128 * 1024;
const bringBack = 'copy or download it again';

/**
 * For an image that will be copied for good: throws `corrupt` where it or an image below it is damaged or was cut off, since what
 * is missing would be read as zeroes; `unsupported` where nothing tells that it is a disk at all, unless the user has; and `changed`
 * for a seat's disk that does not stand on its master.
 */
export async function assertWholeSource(image: Image, options: SourceOptions): Promise<void> {
  const { name, format, signal } = options;
  const top = unfiltered(image);
  if (format === undefined && top.layer.format === 'raw') await assertDisk(top, name);
  for (let each: Image | undefined = top; each; each = each.backing && unfiltered(each.backing)) {
    if (each.layer.format === 'raw') continue;
    const checked = await assertSoundLayer(each.layer, { name, signal, fix: bringBack });
    // The other formats' checks ask where a grain begins.
    if (checked?.neededBytes === undefined) await assertReachesEnd(each, name);
  }
  await assertMadeOn(top, signal);
}

async function assertReachesEnd(image: Image, name: string): Promise<void> {
  for await (const page of image.runs({ depth: 'layer' })) {
    for (const run of page) {
      const missing = missingOf(run);
      if (missing) throw damaged(name, `was cut off: ${missing}`, bringBack);
    }
  }
}

function missingOf(run: ChainRun): string | undefined {
  const place = run.kind === 'packed' ? run.packed : run.kind === 'data' ? run : undefined;
  if (!place) return undefined;
  const { source, at } = place;
  // The last sector need not be whole.
  const end = alignUp(source.size, sector);
  const needed = at + place.length;
  if (run.kind === 'packed' ? at < end && needed <= end + sector : needed <= end) return undefined;
  return `'${source.name}' has ${source.size} bytes of ${needed} at least`;
}

/** A page that tells of a server's error is bytes as well, and so is an empty file. */
async function assertDisk(image: Image, name: string): Promise<void> {
  const { size } = image.layer.source;
  if (size > 0 && size % sector === 0 && (await looksLikeDisk(image))) return;
  throw new DiskError(
    'unsupported',
    size === 0
      ? `'${name}' is empty`
      : `'${name}' is no image of a known format, and does not begin as a disk does`,
    { path: name, field: 'format', detail: { fix: 'say --format raw where it is the bytes of a disk' } },
  );
}

async function looksLikeDisk(disk: ByteSource): Promise<boolean> {
  const bytes = new Uint8Array(Math.min(headBytes, disk.size));
  await disk.read(0, bytes);
  // What is unpacked as it is read is slow to read elsewhere.
  const head: ByteSource = {
    size: disk.size,
    async read(offset, into) {
      const end = offset + into.length;
      if (end <= bytes.length) into.set(bytes.subarray(offset, end));
      else await disk.read(offset, into);
    },
  };
  // Throws for partitions past the end: those of a disk that was cut off.
  if ((await readPartitions(head)).kind !== 'none') return true;
  if (bytes[510] === 0x55 && bytes[511] === 0xaa) return true;
  if ((await isExt(head)) || (await isFat(head))) return true;
  return (await foreignSignature({ ...head, size: bytes.length })) !== undefined;
}
