import { guidText, parseGuid } from '../../bytes/guid.ts';
import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { BackingReference, CreateContext, Layer } from '../driver.ts';
import {
  distinctNames,
  namesOfWindowsPath,
  textOfUtf16le,
  utf16le,
  windowsPathsOf,
} from '../mapped/windows-path.ts';
import { guidAt, guidBytes, vhdxLocator } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';

/** Keys and values by which a differencing disk finds its parent (MS-VHDX 2.6.2.6). */
export type ParentLocator = ReadonlyMap<string, string>;

/** Throws `corrupt`, and `unsupported` for a parent that is no VHDX. */
export function parseParentLocator(view: DataView, path: string): ParentLocator {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  if (bytes.length < 20) throw corrupt(path, 'parent locator');
  const type = guidAt(bytes, 0);
  if (type !== vhdxLocator) {
    throw unsupported(path, 'parent locator', `Parents of the kind ${type} are not known`, { type });
  }
  const entries = new Map<string, string>();
  const count = view.getUint16(18, true);
  if (20 + count * 12 > bytes.length) throw corrupt(path, 'parent locator');
  for (let index = 0; index < count; index++) {
    const at = 20 + index * 12;
    const text = (place: number, length: number): string => {
      if (place + length > bytes.length) throw corrupt(path, 'parent locator');
      return textOfUtf16le(bytes.subarray(place, place + length));
    };
    const key = text(view.getUint32(at, true), view.getUint16(at + 8, true));
    entries.set(key, text(view.getUint32(at + 4, true), view.getUint16(at + 10, true)));
  }
  return entries;
}

/** The item's bytes. */
export function encodeParentLocator(entries: ParentLocator): Uint8Array {
  const texts = [...entries].map(([key, value]) => [utf16le(key), utf16le(value)] as const);
  const total = texts.reduce((sum, [key, value]) => sum + key.length + value.length, 0);
  const bytes = new Uint8Array(20 + texts.length * 12 + total);
  const view = viewOf(bytes);
  bytes.set(guidBytes(vhdxLocator), 0);
  view.setUint16(18, texts.length, true);
  let place = 20 + texts.length * 12;
  for (const [index, [key, value]] of texts.entries()) {
    const at = 20 + index * 12;
    view.setUint32(at, place, true);
    view.setUint16(at + 8, key.length, true);
    bytes.set(key, place);
    place += key.length;
    view.setUint32(at + 4, place, true);
    view.setUint16(at + 10, value.length, true);
    bytes.set(value, place);
    place += value.length;
  }
  return bytes;
}

/** What a differencing disk calls its parent: relative first, which survives a move. Throws `corrupt` without a name. */
export function parentReference(locator: ParentLocator, path: string): BackingReference {
  const names = ['relative_path', 'absolute_win32_path', 'volume_path'].flatMap((key) =>
    namesOfWindowsPath(locator.get(key) ?? ''),
  );
  const [first, ...alternatives] = distinctNames(names);
  if (first === undefined) {
    throw corrupt(path, 'parent locator', undefined, 'A differencing disk without the name of its parent');
  }
  return { path: first, format: 'vhdx', alternatives };
}

/**
 * How a new differencing disk is to find its parent. Throws `bad-argument` for a path that Windows programs could not
 * read.
 */
export async function newLocator(
  path: string,
  dataWriteId: string,
  context: CreateContext,
): Promise<ParentLocator> {
  const { relative, absolute } = await windowsPathsOf(context);
  if (relative === undefined && absolute === undefined) {
    const message = `The path '${context.backing!.path}' has no form that VHDX images can name it by`;
    throw new DiskError('bad-argument', message, { path, field: 'backing_file' });
  }
  return new Map([
    linkage(dataWriteId),
    ...(relative === undefined ? [] : [['relative_path', relative] as const]),
    ...(absolute === undefined ? [] : [['absolute_win32_path', absolute] as const]),
  ]);
}

/** The locator of a disk whose parent is about to have another content as well as the present one. */
export function expecting(locator: ParentLocator, dataWriteId: string): ParentLocator {
  return new Map([...locator, ['parent_linkage2', `{${dataWriteId}}`]]);
}

/** The locator of a disk whose parent has another content by now. */
export function relinked(locator: ParentLocator, dataWriteId: string): ParentLocator {
  const entries = new Map([...locator, linkage(dataWriteId)]);
  entries.delete('parent_linkage2');
  return entries;
}

function linkage(dataWriteId: string): readonly [key: string, value: string] {
  return ['parent_linkage', `{${dataWriteId}}`];
}

/** A disk that can say which content it has. */
interface IdentifiedLayer extends Layer {
  readonly dataWriteId: string;
  /** Open for writing: the identifier that its content has from the first change on. */
  readonly nextDataWriteId?: string;
}

/** The identifier of what a parent holds; undefined for one that is no VHDX. */
export function contentOf(parent: Layer): string | undefined {
  return 'dataWriteId' in parent ? (parent as IdentifiedLayer).dataWriteId : undefined;
}

/** The identifier of what a parent will hold once it has been written to. */
export function nextContentOf(parent: Layer): string | undefined {
  return 'nextDataWriteId' in parent ? (parent as IdentifiedLayer).nextDataWriteId : undefined;
}

/** The contents that a parent may have. */
export function knownContents(locator: ParentLocator): string[] {
  return ['parent_linkage', 'parent_linkage2'].flatMap((key) => {
    const id = parseGuid(locator.get(key) ?? '');
    return id ? [guidText(id)] : [];
  });
}

/** Throws `changed` when `parent` was written to since the child was made, or is another disk. */
export function assertParent(locator: ParentLocator, path: string, parent: Layer): void {
  const wanted = knownContents(locator);
  const found = contentOf(parent);
  if (found !== undefined && wanted.includes(found)) return;
  throw new DiskError(
    'changed',
    found === undefined
      ? 'The parent is no VHDX'
      : `The parent has the content ${found}, not ${wanted[0]}: it was written to, or is another disk`,
    { path, field: 'parent_linkage', detail: { expected: wanted[0], found, parent: parent.source.name } },
  );
}
