import { alignUp } from '../../bytes/numbers.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { CreateContext } from '../driver.ts';
import { utf16le, windowsPathsOf } from '../mapped/windows-path.ts';
import type { LocatorEntry, ParentFields } from './dynamic-header.ts';
import { unsupported } from './errors.ts';
import { type Geometry, guestSize, sectorBytes } from './geometry.ts';
import { readFooters } from './open.ts';
import { parentTimestampOf } from './parent.ts';

/** The image that a new differencing disk is to stand on. */
export interface NewParent {
  /** Guest bytes. */
  readonly size: number;
  readonly geometry: Geometry;
  readonly creator: string;
  /** Lays the parent's paths out from byte `at` of the new file on. */
  place(at: number): { readonly fields: ParentFields; readonly paths: Uint8Array };
}

/**
 * Reads what a child says of its parent. Throws `bad-argument` for a parent that is no VHD, or whose path Windows
 * programs could not read.
 */
export async function readNewParent(path: string, context: CreateContext): Promise<NewParent> {
  const { backing, openBacking } = context;
  if (!openBacking) {
    const message = 'The backing image must be read, and nothing was given to open it with';
    throw unsupported(path, 'backing_file', message);
  }
  const { relative, absolute } = await windowsPathsOf(context);
  if (relative === undefined && absolute === undefined) {
    throw refusal(path, `The path '${backing!.path}' has no form that VHD images can name it by`);
  }
  await using source = await openBacking();
  const footer = await footerOf(path, source);
  const timestamp = parentTimestampOf(source) ?? footer.timestamp;
  const named = [
    ['W2ru', relative],
    ['W2ku', absolute],
  ] as const;
  return {
    size: guestSize(footer),
    geometry: footer.geometry,
    creator: footer.creator,
    place(at) {
      const locators: LocatorEntry[] = [];
      const texts: Uint8Array[] = [];
      let end = at;
      for (const [platform, text] of named) {
        if (text === undefined) continue;
        const space = alignUp(text.length * 2, sectorBytes);
        locators.push({ platform, length: text.length * 2, space, at: end });
        texts.push(utf16le(text));
        end += space;
      }
      const paths = new Uint8Array(end - at);
      for (const [index, text] of texts.entries()) paths.set(text, locators[index].at - at);
      const fields = {
        parentId: footer.uniqueId,
        parentTimestamp: timestamp,
        parentName: (relative ?? absolute)!.replace(/^.*\\/, ''),
        locators,
      };
      return { fields, paths };
    },
  };
}

async function footerOf(path: string, source: ByteSource) {
  try {
    return (await readFooters(source)).footer;
  } catch (cause) {
    if (!isDiskError(cause, 'corrupt')) throw cause;
    throw refusal(path, 'Invalid backing file format. Must be vpc', cause);
  }
}

function refusal(path: string, message: string, cause?: unknown): DiskError {
  return new DiskError('bad-argument', message, { path, field: 'backing_file', cause });
}
