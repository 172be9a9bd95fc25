import { guidText, parseGuid } from '../../bytes/guid.ts';
import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { BackingReference, Layer } from '../driver.ts';
import { distinctNames, namesOfWindowsPath } from '../mapped/windows-path.ts';
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
      return new TextDecoder('utf-16le').decode(bytes.subarray(place, place + length));
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

/** A disk that can say which content it has. */
interface IdentifiedLayer extends Layer {
  readonly dataWriteId: string;
}

/** Throws `changed` when `parent` was written to since the child was made, or is another disk. */
export function assertParent(locator: ParentLocator, path: string, parent: Layer): void {
  const wanted = ['parent_linkage', 'parent_linkage2'].flatMap((key) => {
    const id = parseGuid(locator.get(key) ?? '');
    return id ? [guidText(id)] : [];
  });
  const found = 'dataWriteId' in parent ? (parent as IdentifiedLayer).dataWriteId : undefined;
  if (found !== undefined && wanted.includes(found)) return;
  throw new DiskError(
    'changed',
    found === undefined
      ? 'The parent is no VHDX'
      : `The parent has the content ${found}, not ${wanted[0]}: it was written to, or is another disk`,
    { path, field: 'parent_linkage', detail: { expected: wanted[0], found, parent: parent.source.name } },
  );
}

function utf16le(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 2);
  for (let index = 0; index < text.length; index++) {
    bytes[index * 2] = text.charCodeAt(index) & 0xff;
    bytes[index * 2 + 1] = text.charCodeAt(index) >>> 8;
  }
  return bytes;
}
