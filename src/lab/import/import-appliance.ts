import { readdirSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, extname, join, resolve } from 'node:path';
import type { Appliance, ApplianceDisk } from '../../appliance/appliance.ts';
import { parseOvf } from '../../appliance/parse-ovf.ts';
import { openUnpacked } from '../../cli/unpacked-image.ts';
import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { openImage } from '../../image/open.ts';
import type { ImageTarget } from '../../node.ts';
import { createAside } from '../../platform/atomic-file.ts';
import { asSystemError } from '../../platform/errno.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { sweepFor } from '../../storage/file-target.ts';
import { compressionIn } from '../../storage/file-unpacked.ts';
import type { ByteSource, OnProgress } from '../../storage/store.ts';
import type { DomainType } from '../domain/domain-xml.ts';
import { applianceXml } from './appliance-xml.ts';
import { assertFree, copyToQcow2 } from './copy-disk.ts';
import { assertDigest, digestOf } from './digest.ts';
import { assertFileSize, assertWholeDisk } from './disk-size.ts';
import { type AppliancePackage, namesOf, openPackage, type PackageFile } from './package.ts';
import { clearKilled, type NewFile, placeAll, placesOfKilled } from './placing.ts';

export interface ImportPlan {
  readonly appliance: Appliance;
  /** The domain's name. */
  readonly name: string;
  /** Absolute path of the libvirt definition. */
  readonly definition: string;
  /** One for each disk, absolute. */
  readonly paths: readonly string[];
  /** Files that are there are replaced. */
  readonly force: boolean;
}

export interface ImportOptions {
  readonly signal: AbortSignal;
  readonly domainType: DomainType;
  readonly onVerify?: OnProgress;
  /** Told for each disk, by its number. */
  readonly onCopy?: (disk: number, done: number, total: number) => void;
  readonly onWarning: (message: string) => void;
}

/** A disk of a fixed VHD tells so at its end only. */
const footerBytes = 512;
const vhdCookie = 'conectix';

/**
 * Decides where an appliance goes. `output`: the folder, or for a machine of one disk the name of the image, which ends
 * in `.qcow2`. Throws `exists` unless `force`; what an import of the same name that was killed has left is no hindrance.
 */
export function planImport(
  source: Pick<AppliancePackage, 'path' | 'descriptor'>,
  output: string,
  { name: wanted, force = false }: { readonly name?: string; readonly force?: boolean } = {},
): ImportPlan {
  const appliance = parseOvf(source.descriptor.text, source.path);
  const single = extname(output) === '.qcow2';
  if (single && appliance.disks.length !== 1) {
    throw new DiskError(
      'bad-argument',
      `The appliance has ${appliance.disks.length} disks: name a folder for them`,
      { path: output, field: 'output-file' },
    );
  }
  if (!single && statSync(output, { throwIfNoEntry: false })?.isDirectory() === false) {
    throw new DiskError('bad-argument', `'${output}' is no folder, and no name of an image`, {
      path: output,
      field: 'output-file',
      detail: { fix: 'name a folder, or for a machine of one disk an image that ends in .qcow2' },
    });
  }
  const name = wanted ?? plain(single ? basename(output, '.qcow2') : appliance.name);
  if (plain(name) !== name) {
    throw new DiskError('bad-argument', `${JSON.stringify(name)} is no name for files`, { field: 'name' });
  }
  const folder = single ? dirname(output) : output;
  const paths = appliance.disks.map((_, index) =>
    single ? resolve(output) : resolve(folder, `${name}${index === 0 ? '' : `-disk${index + 1}`}.qcow2`),
  );
  const definition = resolve(folder, `${name}.xml`);
  const left = placesOfKilled(definition);
  for (const path of [...paths, definition]) assertFree(path, force || left.has(path));
  return { appliance, name, definition, paths, force };
}

/** A name that files can have, made of any. */
function plain(name: string): string {
  const cleaned = name
    .replace(/[^\p{L}\p{N}._+-]+/gu, '-')
    .replace(/^[-.]+|-+$/g, '')
    .slice(0, 100);
  return cleaned === '' ? 'appliance' : cleaned;
}

/** Compares the package with its manifest. Answers whether it has one that vouches for the machine. Throws `corrupt`. */
export async function verifyPackage(
  source: AppliancePackage,
  appliance: Appliance,
  { signal, onVerify, onWarning }: Pick<ImportOptions, 'signal' | 'onVerify' | 'onWarning'>,
): Promise<boolean> {
  const { manifest } = source;
  const vouches = vouchesFor(source, appliance, onWarning);
  if (!manifest) return false;
  const files: { readonly file: ByteSource; readonly line: (typeof manifest.lines)[number] }[] = [];
  try {
    for (const line of manifest.lines) files.push({ line, file: await source.open(line.file, manifest) });
    const total = files.reduce((sum, { file }) => sum + file.size, 0);
    let done = 0;
    for (const { file, line } of files) {
      const onBytes = (count: number) => {
        done += count;
        onVerify?.(done, total);
      };
      assertDigest(line, await digestOf(file, line.algorithm, { signal, onBytes }), source.path);
    }
  } finally {
    for (const { file } of files) await file[Symbol.asyncDispose]();
  }
  return vouches;
}

/** Whether a manifest says what the descriptor and all disks are; warns of what it does not. */
export function vouchesFor(
  { signed, manifest, descriptor }: Pick<AppliancePackage, 'signed' | 'manifest' | 'descriptor'>,
  { disks }: Appliance,
  onWarning: (message: string) => void,
): boolean {
  if (signed) onWarning('the signature (.cert) is not checked');
  if (!manifest) {
    onWarning('there is no manifest: whether the package is whole cannot be told');
    return false;
  }
  const listed = listedIn(manifest);
  const needed = disks.flatMap(({ file }) => (file ? [namesOf(file.href, descriptor)] : []));
  const unlisted = [[descriptor.name], ...needed].filter((names) => !names.some((each) => listed.has(each)));
  for (const [name] of unlisted) onWarning(`the manifest does not say what '${name}' is`);
  return unlisted.length === 0;
}

/**
 * Copies the disks and writes the definition. All of it takes its place at the end, the definition last. Answers whether
 * the manifest, where there is one, says what the extents of the disks are, which their own descriptors name.
 */
export async function importAppliance(
  source: AppliancePackage,
  plan: ImportPlan,
  options: ImportOptions,
): Promise<boolean> {
  let vouches = true;
  const listed = listedIn(source.manifest);
  const open = (name: string, from: PackageFile) => {
    if (source.manifest && !namesOf(name, from).some((each) => listed.has(each))) {
      vouches = false;
      options.onWarning(`the manifest does not say what '${name}' is`);
    }
    return source.open(name, from);
  };
  const { path, descriptor } = source;
  await makeMachine(plan, options.domainType, async (targets) => {
    for (const [index, disk] of plan.appliance.disks.entries()) {
      const target = await importDisk(
        { path, descriptor, open: source.open, openExtent: open },
        disk,
        plan.paths[index],
        {
          ...options,
          onProgress: (done, total) => options.onCopy?.(index, done, total),
        },
      );
      targets.set(index, target);
    }
  });
  return vouches;
}

function listedIn(manifest: AppliancePackage['manifest']): ReadonlySet<string> {
  return new Set((manifest?.lines ?? []).flatMap(({ file }) => namesOf(file, manifest!)));
}

/** What a disk is read from. */
interface DiskPackage extends Pick<AppliancePackage, 'path' | 'descriptor' | 'open'> {
  /** As `open`, for what a disk names itself. Default: `open`. */
  readonly openExtent?: AppliancePackage['open'];
}

/**
 * Makes the folder, and has `fill` make the disks, one target for each of their numbers. Then all takes its place, the
 * definition last; or, when something throws, all is as it was.
 */
export async function makeMachine(
  { appliance, paths, definition, name, force }: ImportPlan,
  domainType: DomainType,
  fill: (targets: Map<number, ImageTarget>) => Promise<void>,
): Promise<void> {
  const folder = dirname(definition);
  const isNew = makeFolder(folder);
  const targets = new Map<number, ImageTarget>();
  const discard = async () => {
    // One that cannot be cleared away is no reason to keep the others.
    await Promise.allSettled([...targets.values()].map((target) => target[Symbol.asyncDispose]()));
  };
  try {
    clearKilled(definition);
    await fill(targets);
    const disks = appliance.disks.map((disk, index) => ({ ...disk, path: paths[index] }));
    const xml = applianceXml(appliance, name, disks, domainType);
    await using aside = createAside(definition);
    sweepFor(aside.target);
    try {
      writeFileSync(aside.path, xml, { flag: 'wx' });
    } catch (error) {
      throw asSystemError(error, 'write', definition);
    }
    const files: NewFile[] = [...targets].map(([index, target]) => ({ ...target, path: paths[index] }));
    await placeAll([...files, { ...aside, path: definition, written: aside.path }], force);
  } catch (error) {
    await discard();
    if (isNew && readdirSync(folder).length === 0) rmdirSync(folder);
    throw error;
  } finally {
    await discard();
  }
}

/**
 * Makes the one disk of an appliance a qcow2 image, once its manifest was found to be right. Throws `unsupported` for a machine of
 * several disks, `corrupt`.
 */
export async function unpackAppliance(
  path: string,
  target: string,
  options: Pick<ImportOptions, 'signal' | 'onWarning' | 'onVerify'> & { readonly onProgress: OnProgress },
): Promise<void> {
  await using source = await openPackage(path);
  const appliance = parseOvf(source.descriptor.text, source.path);
  const [disk, ...others] = appliance.disks;
  if (disk === undefined || others.length > 0) {
    throw new DiskError(
      'unsupported',
      `The appliance has ${appliance.disks.length} disks, and a master is one`,
      {
        path,
        detail: { fix: "'cowherd import' takes them all; then build from the one that boots" },
      },
    );
  }
  await verifyPackage(source, appliance, options);
  await using made = await importDisk(source, disk, target, {
    ...options,
    domainType: 'qemu',
  });
  await made.commit();
}

async function importDisk(
  source: DiskPackage,
  disk: ApplianceDisk,
  path: string,
  options: ImportOptions & { readonly onProgress: OnProgress },
): Promise<ImageTarget> {
  if (!disk.file) return makeEmptyDisk(source.path, disk, path, options);
  await using image = await openDisk(source, disk, dirname(path), options);
  await assertWholeDisk(image, disk, source.path, options);
  return await copyToQcow2(path, image.size, image, options);
}

/** A disk that the descriptor of `from` gives a size only. */
export function makeEmptyDisk(
  from: string,
  { id, capacity }: ApplianceDisk,
  path: string,
  options: ImportOptions,
): Promise<ImageTarget> {
  if (capacity !== undefined) return copyToQcow2(path, capacity, undefined, options);
  throw new DiskError('corrupt', `The disk '${id}' has neither a file nor a size`, {
    path: from,
    field: 'Disk',
  });
}

async function openDisk(
  source: DiskPackage,
  { file }: ApplianceDisk,
  spoolDirectory: string,
  options: ImportOptions,
): Promise<Image> {
  const { signal, onWarning } = options;
  const { href, gzip } = file!;
  const bytes = await source.open(href, source.descriptor);
  assertFileSize(file!, bytes.size, source.path, options);
  const compression = gzip ? 'gzip' : await compressionIn(bytes);
  if (compression) {
    const onSpool = (format: string, size: number) =>
      onWarning(`'${href}' is ${format} in ${compression}: it is unpacked first, which takes ${size} bytes`);
    return openUnpacked(bytes, compression, { signal, spoolDirectory, onSpool });
  }
  // Extents lie beside their descriptor, in the package.
  const open = source.openExtent ?? source.open;
  const openExtent = (name: string) => open(join(dirname(href), name), source.descriptor);
  return openDiskFile(bytes, { href, path: source.path, signal, openExtent });
}

export interface DiskFileOptions {
  /** The file's name in the package, and the package's, for messages. */
  readonly href: string;
  readonly path: string;
  readonly signal: AbortSignal;
  openExtent(name: string): Promise<ByteSource>;
}

/** Opens a file of a package as the disk that it is. Nothing but extents is opened beside it. */
export async function openDiskFile(
  bytes: ByteSource,
  { href, path, signal, openExtent }: DiskFileOptions,
): Promise<Image> {
  return openImage(bytes, {
    format: await fixedVhdOr(bytes),
    signal,
    resolve: (reference, from) => {
      if (from.role === 'file') return openExtent(reference.path);
      const message = `'${href}' is laid over '${reference.path}', which is not in it: export it as one disk`;
      return Promise.reject(new DiskError('unsupported', message, { path, field: 'backing' }));
    },
  });
}

async function fixedVhdOr(bytes: ByteSource): Promise<string | undefined> {
  if (bytes.size < footerBytes) return undefined;
  const footer = new Uint8Array(footerBytes);
  await bytes.read(bytes.size - footerBytes, footer);
  return new TextDecoder('latin1').decode(footer.subarray(0, vhdCookie.length)) === vhdCookie
    ? 'vpc'
    : undefined;
}
