import { DiskError } from '../errors.ts';
import type { Layer, LayerDetails } from '../formats/driver.ts';
import { imageBeneath } from '../image/image-store.ts';
import type { NamingImage } from '../image/policy.ts';
import { combineReference, parseReference } from '../image/reference.ts';
import { listSnapshots, snapshotHolder } from './snapshot.ts';

/** What an image says of itself: its header, and what it costs on the host. Nothing of its guest data is read. */
export interface ImageInfo {
  /** The name it was opened by, `file:` taken off. */
  readonly name: string;
  readonly format: string;
  /** Guest bytes. */
  readonly virtualSize: number;
  /** Bytes that the host spends on it; undefined where that has no meaning. */
  readonly allocated?: number;
  readonly backing?: BackingInfo;
  readonly details: LayerDetails;
}

export interface BackingInfo {
  /** As written in the image. */
  readonly name: string;
  /** By which name it is opened: relative to the image. Undefined where that cannot be told. */
  readonly fullName?: string;
  readonly format?: string;
}

/** A layer, and the name that opens it again where that is not its file's name. */
export interface DescribedLayer {
  readonly layer: Layer;
  readonly filename?: string;
}

/** Reads what `layer` says of itself. Throws `corrupt` and `io` as its format does. */
async function describeLayer({ layer, filename }: DescribedLayer): Promise<ImageInfo> {
  const { source } = layer;
  const reference = parseReference(source.name);
  const beneath = layer.openSnapshot ? undefined : imageBeneath(source);
  const details = await layer.details();
  const name = filename ?? (reference.kind === 'file' ? reference.path : source.name);
  return {
    name,
    format: layer.format,
    virtualSize: layer.size,
    allocated: await (layer.allocated ? layer.allocated() : source.allocated()),
    backing: layer.backing && {
      name: layer.backing.path,
      fullName: fullNameOf(source.referenceBase ?? source.name, layer.backing.path),
      format: layer.backing.format,
    },
    details: beneath ? { ...details, snapshots: await listSnapshots(snapshotHolder(beneath)) } : details,
  };
}

/** Opens one image of a chain, without the images that it names. */
export type OpenForInfo = (
  name: string,
  format: string | undefined,
  depth: number,
) => Promise<DescribedLayer>;

/** Throws where an image may not name another one. */
export type AllowForInfo = (reference: string, from: NamingImage) => Promise<void>;

/**
 * Describes `name` and then each image that it stands on, opening one at a time: the length of a chain costs no
 * file handles. Throws `corrupt` (field 'backing chain', `detail.name`) where a name comes a second time.
 */
export async function* describeChain(
  name: string,
  format: string | undefined,
  open: OpenForInfo,
  allow?: AllowForInfo,
): AsyncIterable<ImageInfo> {
  const seen = new Set<string>();
  let next: { readonly name: string; readonly format?: string } | undefined = { name, format };
  for (let depth = 0; next; depth++) {
    if (seen.has(next.name)) {
      throw new DiskError('corrupt', `The backing chain loops: '${next.name}' is in it already`, {
        path: next.name,
        field: 'backing chain',
        detail: { loop: true, name: next.name },
      });
    }
    seen.add(next.name);
    const { info, base } = await describeOne(next.name, next.format, depth, open);
    yield info;
    next = undefined;
    if (info.backing) {
      if (info.backing.fullName === undefined) {
        throw new DiskError('bad-argument', `Nobody can tell where '${info.backing.name}' lies`, {
          path: info.name,
          field: 'backing_file',
        });
      }
      await allow?.(info.backing.name, { name: base, depth });
      next = { name: info.backing.fullName, format: info.backing.format };
    }
  }
}

async function describeOne(name: string, format: string | undefined, depth: number, open: OpenForInfo) {
  const opened = await open(name, format, depth);
  await using layer = opened.layer;
  const base = layer.source.referenceBase ?? layer.source.name;
  return { info: await describeLayer(opened), base };
}

function fullNameOf(image: string, backing: string): string | undefined {
  try {
    return combineReference(image, backing);
  } catch {
    return undefined;
  }
}
