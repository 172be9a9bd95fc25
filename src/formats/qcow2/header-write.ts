import { alignUp } from '../../bytes/numbers.ts';
import type { ByteStore } from '../../storage/store.ts';
import { ExtensionType } from './constants.ts';
import type { HeaderExtension } from './extensions.ts';
import { clusterSizeOf, type Qcow2Header } from './header.ts';
import { encodeFields, encodeHeader, extensionBytes } from './header-encode.ts';

/** A disk writes this much or nothing; the fields and the small extensions are meant to lie in it. */
const sectorBytes = 512;

/**
 * Writes changed header fields (not the extensions, not the backing file) in one sector, durably: after a power
 * cut the old or the new ones are there. What was written before is made durable first.
 */
export async function writeHeaderFields(store: ByteStore, header: Qcow2Header): Promise<void> {
  await store.flush();
  await store.write(0, encodeFields(header).subarray(0, sectorBytes));
  await store.flush();
}

/**
 * Replaces header, extensions and backing file name, durably, and gives the header as it then is. `current` is
 * what the file holds. The switch is one write of the first sector: what lies past that sector is put first
 * where the current header does not look. To that end the feature names (they are optional) go to the end or are
 * dropped. Only where the current extensions without them pass the first sector can a power cut leave a mixture.
 * Throws `out-of-range` when the first cluster has no room.
 */
export async function replaceHeader(
  store: ByteStore,
  current: Qcow2Header,
  wanted: Qcow2Header,
): Promise<Qcow2Header> {
  const layout = chooseLayout(current, wanted);
  await store.flush();
  if (layout.bytes.length > sectorBytes) {
    const interim = withoutNames(current);
    if (chainEnd(current) > sectorBytes && chainEnd(interim) <= sectorBytes) {
      const bytes = encodeHeader(interim, current.backingFileOffset || undefined);
      await store.write(0, bytes.subarray(0, chainEnd(interim)));
      await store.flush();
    }
    const { nameAt, bytes } = layout;
    const chain = chainEnd(layout.header);
    if (chain > sectorBytes) await store.write(sectorBytes, bytes.subarray(sectorBytes, chain));
    const name = Math.max(nameAt, sectorBytes);
    if (nameAt > 0 && name < bytes.length) await store.write(name, bytes.subarray(name));
    await store.flush();
  }
  await store.write(0, layout.bytes.subarray(0, sectorBytes));
  await store.flush();
  return layout.header;
}

interface Layout {
  readonly header: Qcow2Header;
  readonly bytes: Uint8Array;
  /** Where the backing file name begins; 0 without one. */
  readonly nameAt: number;
}

/** The first way to lay `wanted` out that leaves the current backing file name past the first sector alone. */
function chooseLayout(current: Qcow2Header, wanted: Qcow2Header): Layout {
  const clusterSize = clusterSizeOf(wanted);
  const bare = withoutNames(wanted);
  const namesLast = {
    ...wanted,
    extensions: [...bare.extensions, ...wanted.extensions.filter(isFeatureNames)],
  };
  const oldEnd = current.backingFileOffset + (current.backingFileBytes?.length ?? 0);
  const keep = { from: Math.max(sectorBytes, current.backingFileOffset), to: oldEnd };
  for (const header of [namesLast, bare]) {
    const end = chainEnd(header);
    for (const nameAt of [end, Math.max(end, alignUp(keep.to, 8))]) {
      const nameEnd = nameAt + (header.backingFileBytes?.length ?? 0);
      if (nameEnd > clusterSize) continue;
      const overlaps = keep.from < end || (keep.from < nameEnd && nameAt < keep.to);
      if (keep.from < keep.to && overlaps) continue;
      return layoutOf(header, nameAt);
    }
  }
  // No room for both names at once, or none at all: then this says so.
  return layoutOf(bare, chainEnd(bare));
}

function layoutOf(header: Qcow2Header, at: number): Layout {
  const nameAt = header.backingFileBytes ? at : 0;
  return { header: { ...header, backingFileOffset: nameAt }, bytes: encodeHeader(header, at), nameAt };
}

function chainEnd(header: Qcow2Header): number {
  return header.headerLength + extensionBytes(header.extensions) + 8;
}

function withoutNames(header: Qcow2Header): Qcow2Header {
  return { ...header, extensions: header.extensions.filter((extension) => !isFeatureNames(extension)) };
}

function isFeatureNames(extension: HeaderExtension): boolean {
  return extension.type === ExtensionType.featureNames;
}
