import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, dirname, extname, join, sep } from 'node:path';
import { type ManifestLine, parseManifest } from '../../appliance/manifest.ts';
import { isPlainName, looksLikeTar, readTar, tarBlock, withoutDots } from '../../appliance/tar.ts';
import { DiskError } from '../../errors.ts';
import { realPathOf } from '../../platform/host-names.ts';
import { openFileStore } from '../../storage/file.ts';
import type { ByteSource } from '../../storage/store.ts';
import { windowOf } from '../../storage/window.ts';

/** Descriptors and manifests are texts of some kilobytes. */
export const maxTextBytes = 4 * 1024 * 1024;

/** An appliance's files: an OVA, or a folder with an OVF descriptor. */
export interface AppliancePackage extends AsyncDisposable {
  readonly path: string;
  /** The descriptor's name in the package, and its text. */
  readonly descriptor: { readonly name: string; readonly text: string };
  readonly manifest?: { readonly name: string; readonly lines: readonly ManifestLine[] };
  /** It has a certificate, which is not looked at. */
  readonly signed: boolean;
  /** A file by the name that `from`, a file of the package, has for it. Owned by who asks. Throws `not-found`. */
  open(name: string, from: PackageFile): Promise<ByteSource>;
}

/** What names other files: the descriptor or the manifest, by its own name in the package. */
export interface PackageFile {
  readonly name: string;
}

/**
 * The names that a file of a package may have there, which `from` calls `href`: as it is written, and without the escapes
 * of a URI reference, which `href` is (DSP0243, "References"); from the folder where `from` lies. Archives and descriptors
 * may write `./box.vmdk`.
 */
export function namesOf(href: string, from: PackageFile): readonly string[] {
  const folder = from.name.slice(0, from.name.lastIndexOf('/') + 1);
  // As archives' names are.
  const written = isPlainName(href) ? withoutDots(href) : href;
  let plain = written;
  try {
    plain = decodeURIComponent(written);
  } catch {
    // No escapes then.
  }
  const names = plain === written || !isPlainName(plain) ? [written] : [written, withoutDots(plain)];
  // Not joined as paths are: a name that climbs is no file's.
  return names.map((name) => `${folder}${name}`);
}

/** Whether `path` is a folder, a descriptor, or an archive: what `openPackage` takes. */
export async function isPackage(path: string): Promise<boolean> {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (!stats?.isFile()) return stats?.isDirectory() ?? false;
  if (extname(path).toLowerCase() === '.ovf') return true;
  await using file = await openFileStore(path);
  const head = new Uint8Array(Math.min(tarBlock, file.size));
  await file.read(0, head);
  return looksLikeTar(head);
}

/** Opens an OVA, an OVF file, or the folder that holds one. Throws as `readTar` and `parseManifest` do. */
export async function openPackage(path: string): Promise<AppliancePackage> {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats?.isDirectory() || extname(path).toLowerCase() === '.ovf')
    return openFolder(path, stats?.isDirectory());
  const archive = await openFileStore(path);
  try {
    const entries = new Map((await readTar(archive)).map((entry) => [entry.name, entry]));
    const open = async (href: string, from: PackageFile) => {
      const found = namesOf(href, from).find((each) => entries.has(each));
      if (found === undefined) throw missing(path, href);
      return windowOf(archive, entries.get(found)!);
    };
    const openEntry = async (name: string) => windowOf(archive, entries.get(name)!);
    const parts = await readParts(path, [...entries.keys()], openEntry);
    return { ...parts, path, open, [Symbol.asyncDispose]: async () => archive[Symbol.asyncDispose]() };
  } catch (error) {
    await archive[Symbol.asyncDispose]();
    throw error;
  }
}

async function openFolder(path: string, isFolder = false): Promise<AppliancePackage> {
  const folder = realPathOf(isFolder ? path : dirname(path));
  const open = async (href: string, from: PackageFile) => {
    const name = namesOf(href, from).find((each) => existsSync(join(folder, each)));
    if (name === undefined) throw missing(path, href);
    const place = realPathOf(join(folder, name));
    if (!place.startsWith(folder + sep)) {
      throw new DiskError('denied', `'${name}' leads out of the folder of the descriptor`, {
        path,
        field: 'href',
      });
    }
    return openFileStore(place, { name: join(dirname(isFolder ? join(path, 'x') : path), name) });
  };
  const names = readdirSync(folder);
  const own = basename(path);
  // Beside a descriptor that was named, only what belongs to it counts.
  const stem = own.slice(0, -extname(own).length);
  const mine = isFolder ? names : [own, `${stem}.mf`, `${stem}.cert`].filter((name) => names.includes(name));
  // They all lie at the top.
  const parts = await readParts(path, mine, (name) => open(name, { name }));
  return { ...parts, path, open, [Symbol.asyncDispose]: async () => undefined };
}

async function readParts(
  path: string,
  names: readonly string[],
  open: (name: string) => Promise<ByteSource>,
) {
  const ending = (end: string) => names.filter((name) => extname(name).toLowerCase() === end);
  const descriptors = ending('.ovf');
  if (descriptors.length !== 1) {
    throw new DiskError(
      descriptors.length === 0 ? 'not-found' : 'bad-argument',
      descriptors.length === 0
        ? `There is no OVF descriptor in '${path}'`
        : `There are ${descriptors.length} OVF descriptors in '${path}': name one`,
      { path, field: 'descriptor' },
    );
  }
  const [name] = descriptors;
  const manifests = ending('.mf');
  return {
    descriptor: { name, text: await readText(await open(name)) },
    manifest:
      manifests.length === 0
        ? undefined
        : { name: manifests[0], lines: parseManifest(await readText(await open(manifests[0])), path) },
    signed: ending('.cert').length > 0,
  };
}

async function readText(source: ByteSource): Promise<string> {
  await using open = source;
  assertTextSize(open.size, open.name);
  const bytes = new Uint8Array(open.size);
  await open.read(0, bytes);
  return decodeText(bytes, open.name);
}

/** Throws `corrupt` for a descriptor or a manifest of too many bytes. */
export function assertTextSize(size: number, path: string): void {
  if (size <= maxTextBytes) return;
  throw new DiskError('corrupt', `A text of ${size} bytes in the package is too long`, {
    path,
    field: 'size',
  });
}

/** Throws `corrupt`. */
export function decodeText(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new DiskError('corrupt', 'A text in the package is not UTF-8', { path, cause });
  }
}

/** The error of a package without a file that it should have. */
export function missing(path: string, name: string): DiskError {
  return new DiskError('not-found', `The package has no file '${name}'`, { path, field: 'href' });
}
