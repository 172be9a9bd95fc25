import { DiskError } from '../errors.ts';
import type { Layer, LayerDetails } from '../formats/driver.ts';
import { combineReference, parseReference } from '../image/reference.ts';

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

/** Reads what `layer` says of itself. Throws `corrupt` and `io` as its format does. */
export async function describeLayer(layer: Layer): Promise<ImageInfo> {
  const reference = parseReference(layer.source.name);
  const name = reference.kind === 'file' ? reference.path : layer.source.name;
  return {
    name,
    format: layer.format,
    virtualSize: layer.size,
    allocated: await layer.source.allocated(),
    backing: layer.backing && {
      name: layer.backing.path,
      fullName: fullNameOf(name, layer.backing.path),
      format: layer.backing.format,
    },
    details: await layer.details(),
  };
}

/** Opens one image of a chain, without the images that it names. */
export type OpenForInfo = (name: string, format: string | undefined) => Promise<Layer>;

/**
 * Describes `name` and then each image that it stands on, opening one at a time: the length of a chain costs no
 * file handles. Throws `corrupt` (field 'backing chain', `detail.name`) where a name comes a second time.
 */
export async function* describeChain(
  name: string,
  format: string | undefined,
  open: OpenForInfo,
): AsyncIterable<ImageInfo> {
  const seen = new Set<string>();
  let next: { readonly name: string; readonly format?: string } | undefined = { name, format };
  while (next) {
    if (seen.has(next.name)) {
      throw new DiskError('corrupt', `The backing chain loops: '${next.name}' is in it already`, {
        path: next.name,
        field: 'backing chain',
        detail: { loop: true, name: next.name },
      });
    }
    seen.add(next.name);
    const info = await describeOne(next.name, next.format, open);
    yield info;
    next = undefined;
    if (info.backing) {
      if (info.backing.fullName === undefined) {
        throw new DiskError('bad-argument', `Nobody can tell where '${info.backing.name}' lies`, {
          path: info.name,
          field: 'backing_file',
        });
      }
      next = { name: info.backing.fullName, format: info.backing.format };
    }
  }
}

async function describeOne(name: string, format: string | undefined, open: OpenForInfo): Promise<ImageInfo> {
  await using layer = await open(name, format);
  return await describeLayer(layer);
}

function fullNameOf(image: string, backing: string): string | undefined {
  try {
    return combineReference(image, backing);
  } catch {
    return undefined;
  }
}
