import { basename, extname } from 'node:path';
import { encodeManifest, type ManifestLine } from '../../appliance/manifest.ts';
import { tarBlock, tarHeader } from '../../appliance/tar.ts';
import { encodeOvf, type OvfWish } from '../../appliance/write-ovf.ts';
import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { createImage, openImage } from '../../image/open.ts';
import { createTarget } from '../../node.ts';
import { convertImages } from '../../operations/convert.ts';
import { type ByteStore, hostFileOf } from '../../storage/store.ts';
import { storeWindowOf, windowOf } from '../../storage/window.ts';
import { place } from '../import/copy-disk.ts';
import { digestOf } from '../import/digest.ts';

export interface ExportWish extends Omit<OvfWish, 'disks'> {
  readonly images: readonly Image[];
}

export interface ExportOptions {
  /** The file's permissions, from its first byte on, whatever a file has that it replaces. Default: as any new file, or as that has. */
  readonly mode?: number;
  readonly signal: AbortSignal;
  /** Replaces a file that is there. */
  readonly force: boolean;
  readonly onCopy?: (disk: number, done: number, total: number) => void;
}

/** A disk as it lies in the archive. */
interface PackedDisk {
  readonly file: string;
  /** Where its header lies; the content follows. */
  readonly at: number;
  readonly fileBytes: number;
  readonly capacity: number;
  readonly populated: number;
  readonly digest: string;
}

const sectorBytes = 512;
/** tar's own unit of writing: some programs want archives to be multiples of it. */
const recordBytes = 20 * tarBlock;

/**
 * Writes an OVA: descriptor, manifest, then the disks, as OVF wants them. The disks are written first, each where it will
 * lie, behind room for descriptor and manifest, since these say how large and what the disks turned out to be; so
 * nothing is written twice. The file takes its place when it is whole and durable.
 */
export async function exportAppliance(path: string, wish: ExportWish, options: ExportOptions): Promise<void> {
  const base = memberName(basename(path, extname(path)));
  const names = wish.images.map((_, index) => `${base}-disk${index + 1}.vmdk`);
  const descriptorRoom = new TextEncoder().encode(
    encodeOvf({ ...wish, disks: names.map((file) => ({ file, ...largest })) }),
  ).length;
  const manifestText = (digests: readonly string[]) =>
    encodeManifest(
      [`${base}.ovf`, ...names].map(
        (file, index): ManifestLine => ({ algorithm: 'SHA256', file, digest: digests[index] }),
      ),
    );
  const manifestBytes = new TextEncoder().encode(
    manifestText(names.concat('').map(() => '0'.repeat(64))),
  ).length;
  const manifestAt = tarBlock + alignUp(descriptorRoom, tarBlock);
  await using target = await createTarget(path, { keepLinks: true, mode: options.mode });
  const { store } = target;
  if (hostFileOf(store)?.fileKind !== 'regular') {
    throw new DiskError('bad-argument', `'${path}' is no place for a file`, { path });
  }
  const disks: PackedDisk[] = [];
  let at = manifestAt + tarBlock + alignUp(manifestBytes, tarBlock);
  for (const [index, image] of wish.images.entries()) {
    const disk = await writeDisk(store, at, names[index], image, wish.bus, {
      signal: options.signal,
      onProgress: (done, total) => options.onCopy?.(index, done, total),
    });
    disks.push(disk);
    at = alignUp(at + tarBlock + disk.fileBytes, tarBlock);
  }
  const descriptor = new Uint8Array(descriptorRoom).fill(0x0a);
  descriptor.set(new TextEncoder().encode(encodeOvf({ ...wish, disks })));
  await store.write(tarBlock, descriptor);
  const own = await digestOf(windowOf(store, { offset: tarBlock, size: descriptorRoom }), 'SHA256');
  const manifest = new TextEncoder().encode(manifestText([own, ...disks.map(({ digest }) => digest)]));
  await store.write(manifestAt + tarBlock, manifest);
  const seconds = Math.floor(Date.now() / 1000);
  await store.write(0, tarHeader(`${base}.ovf`, descriptorRoom, seconds));
  await store.write(manifestAt, tarHeader(`${base}.mf`, manifest.length, seconds));
  for (const disk of disks) await store.write(disk.at, tarHeader(disk.file, disk.fileBytes, seconds));
  await store.resize(alignUp(at + 2 * tarBlock, recordBytes));
  await place(target, path, options);
}

/** A name that a tar header holds, and that is the same as a reference in a URI: importers differ in what they unescape. */
function memberName(name: string): string {
  const plain = name.replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^[-.]+|-+$/g, '');
  return plain.slice(0, 64) || 'appliance';
}

/** As long as the descriptor's figures can get. */
const largest = {
  fileBytes: Number.MAX_SAFE_INTEGER,
  capacity: Number.MAX_SAFE_INTEGER,
  populated: Number.MAX_SAFE_INTEGER,
};

async function writeDisk(
  store: ByteStore,
  at: number,
  file: string,
  image: Image,
  bus: ExportWish['bus'],
  options: { readonly signal: AbortSignal; readonly onProgress: (done: number, total: number) => void },
): Promise<PackedDisk> {
  const offset = at + tarBlock;
  await store.resize(offset);
  const window = storeWindowOf(store, { offset });
  const capacity = alignUp(image.size, sectorBytes);
  const creation = { subformat: 'streamOptimized', adapter_type: bus === 'scsi' ? 'lsilogic' : 'ide' };
  await createImage(window, 'vmdk', capacity, creation, { name: file });
  let populated = 0;
  {
    await using made = await openImage(window, { format: 'vmdk', writable: true, signal: options.signal });
    await convertImages([image], made, { ...options, targetIsZero: true, packed: true });
    for await (const page of made.runs()) {
      for (const run of page) if (run.kind === 'packed' || run.kind === 'data') populated += run.length;
    }
  }
  const content = windowOf(store, { offset, size: store.size - offset });
  const digest = await digestOf(content, 'SHA256', { signal: options.signal });
  return { file, at, fileBytes: content.size, capacity, populated, digest };
}
