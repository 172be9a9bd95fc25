import { assertText } from '../bytes/byte-text.ts';
import { DiskError } from '../errors.ts';
import { combineReference, parseReference } from './reference.ts';

/** What an image may name, and how deep a chain may be. */
export interface ReferencePolicy {
  /** Images in a chain, the first counted. */
  readonly maxDepth: number;
  /** True: an image may name only files in its own directory or below it, and no protocol. */
  readonly ownDirectoryOnly: boolean;
}

/** For images of one's own: any file, chains as deep as file handles and patience allow. */
export const trustedImages: ReferencePolicy = { maxDepth: 500, ownDirectoryOnly: false };

/** For an image from a stranger, who may name `/etc/shadow` as its backing file. */
export const untrustedImages: ReferencePolicy = { maxDepth: 16, ownDirectoryOnly: true };

/** The image that names another one. */
export interface NamingImage {
  /** Its name as it was opened. */
  readonly name: string;
  /** 0 for the image that the caller opened, 1 for its backing image, and so on. */
  readonly depth: number;
}

/**
 * Refuses a reference that the policy forbids, before anything is opened. `canonical` resolves symbolic links,
 * so that a link inside the directory cannot lead out of it; a name that is undefined is the caller's own. Throws `denied` and,
 * under any policy, `unsupported` for a name that is not UTF-8.
 */
export async function assertAllowed(
  name: string | undefined,
  from: NamingImage & { readonly role: 'backing' | 'file' },
  policy: ReferencePolicy,
  canonical?: (path: string) => Promise<string>,
): Promise<void> {
  if (from.role === 'backing' && from.depth + 1 >= policy.maxDepth) {
    throw new DiskError('unsupported', `The backing chain has more than ${policy.maxDepth} images`, {
      path: from.name,
      field: 'backing chain',
      detail: { limit: policy.maxDepth },
    });
  }
  if (name === undefined) return;
  assertText(name, from.name);
  if (!policy.ownDirectoryOnly) return;
  const reference = parseReference(combineReference(from.name, name));
  const base = parseReference(from.name);
  const place = { path: from.name, field: 'reference', detail: { reference: name } };
  if (reference.kind !== 'file' || base.kind !== 'file') {
    throw new DiskError('denied', `An untrusted image names '${name}', which is no plain file`, place);
  }
  const resolve = canonical ?? (async (path: string) => path);
  const directory = normalize(directoryOf(await resolve(base.path)));
  const target = normalize(await resolve(reference.path));
  const inside =
    directory === '.'
      ? !/^(\/|\.\.(\/|$))/.test(target)
      : target.startsWith(directory === '/' ? '/' : `${directory}/`);
  if (!inside) {
    throw new DiskError('denied', `An untrusted image names '${name}', outside its own directory`, place);
  }
}

function directoryOf(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash < 0 ? '.' : path.slice(0, slash) || '/';
}

/** Takes `.`, `..` and doubled slashes out of a path, by its letters alone. */
function normalize(path: string): string {
  const absolute = path.startsWith('/');
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop();
    else if (part !== '..' || !absolute) parts.push(part);
  }
  return (absolute ? '/' : '') + parts.join('/') || '.';
}
