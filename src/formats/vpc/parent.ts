import { textOf } from '../../bytes/byte-text.ts';
import { guidText } from '../../bytes/guid.ts';
import { DiskError } from '../../errors.ts';
import { type ByteSource, bottomOf, hostFileOf } from '../../storage/store.ts';
import type { BackingReference, Layer } from '../driver.ts';
import { distinctNames, namesOfWindowsPath, pathOfFileUrl, textOfUtf16le } from '../mapped/windows-path.ts';
import type { DynamicHeader, LocatorEntry } from './dynamic-header.ts';
import { corrupt } from './errors.ts';
import { timestampOf } from './footer.ts';

/** Longer paths are lies. */
const maxPathBytes = 64 * 1024;

/** Which locator is believed first: relative paths survive a move, absolute ones do not. */
const order = ['W2ru', 'Wi2r', 'MacX', 'W2ku', 'Wi2k'];

/** What a differencing disk calls its parent. Throws `corrupt` when it has no name at all for it. */
export async function readParentReference(
  source: ByteSource,
  header: DynamicHeader,
): Promise<BackingReference> {
  const names: string[] = [];
  const known = header.locators.filter(({ platform }) => order.includes(platform));
  known.sort((a, b) => order.indexOf(a.platform) - order.indexOf(b.platform));
  for (const locator of known) names.push(...namesOf(locator, await readPath(source, locator)));
  names.push(...namesOfWindowsPath(header.parentName));
  const [path, ...alternatives] = distinctNames(names);
  if (path === undefined) {
    throw corrupt(source.name, 'parent locator', 'A differencing disk without the name of its parent');
  }
  return { path, format: 'vpc', alternatives };
}

async function readPath(source: ByteSource, locator: LocatorEntry): Promise<Uint8Array> {
  if (locator.length > maxPathBytes || locator.at + locator.length > source.size) {
    throw corrupt(source.name, 'parent locator', 'A parent locator lies outside of the file', locator.at);
  }
  const bytes = new Uint8Array(locator.length);
  await source.read(locator.at, bytes);
  return bytes;
}

function namesOf({ platform }: LocatorEntry, bytes: Uint8Array): string[] {
  switch (platform) {
    case 'W2ru':
    case 'W2ku':
      return namesOfWindowsPath(untilNul(textOfUtf16le(bytes)));
    case 'MacX':
      return [pathOfFileUrl(untilNul(textOf(bytes)))];
    default:
      return namesOfWindowsPath(untilNul(new TextDecoder('windows-1252').decode(bytes)));
  }
}

function untilNul(text: string): string {
  const nul = text.indexOf('\0');
  return nul < 0 ? text : text.slice(0, nul);
}

/** A disk that can say which one it is. */
export interface IdentifiedLayer extends Layer {
  readonly uniqueId: Uint8Array;
}

/** Throws `changed` when `parent` is not the disk that `header` was made from. */
export function assertParent(header: DynamicHeader, path: string, parent: Layer): void {
  const id = 'uniqueId' in parent ? (parent as IdentifiedLayer).uniqueId : undefined;
  if (id && guidText(id) === guidText(header.parentId)) return;
  const found = id ? guidText(id) : 'no VHD';
  throw new DiskError('changed', `The parent is ${found}, not the disk ${guidText(header.parentId)}`, {
    path,
    field: 'parent unique id',
    detail: { expected: guidText(header.parentId), found, parent: parent.source.name },
  });
}

/** When a parent was last changed, as its children remember it; undefined for one that is no file. */
export function parentTimestampOf(source: ByteSource): number | undefined {
  const file = hostFileOf(bottomOf(source));
  return file && timestampOf(file.modifiedAt());
}
