import { writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { DiskError } from '../../errors.ts';
import { claimsOn } from '../../filesystems/claims.ts';
import type { ByteSource } from '../../filesystems/source.ts';
import { volumeName } from '../../filesystems/volumes.ts';
import type { Image } from '../../image/image.ts';
import { openImageFile } from '../../node.ts';
import { requireTools, runTool } from '../build/tools.ts';
import { GuestFiles, type GuestVolume } from './guest-files.ts';
import { type LintReport, lintImage } from './lint.ts';
import { copyImage } from './seal.ts';

/*
 * What lint finds is taken out of a copy, by e2fsprogs' own debugfs, and e2fsck says before and after whether the file system is sound. The
 * image itself is only read.
 */

/** One change to a guest's file system. */
export interface Change {
  readonly do: 'remove' | 'remove directory' | 'empty';
  /** In the guest. */
  readonly path: string;
}

/** Changes to one volume of a disk, in an order in which they can be made. */
export interface VolumeChanges {
  readonly volume: GuestVolume['volume'];
  readonly changes: readonly (Change & { readonly within: string })[];
}

/** More than this is no leftover of a master's own life. */
const mostChanges = 100_000;

/**
 * What the remedies of findings come to, by volume. Throws `unsupported` for a file system that is not ext2, ext3 or ext4 or was not
 * unmounted, and for names that cannot be said to debugfs.
 */
export async function planFixes(
  disk: ByteSource,
  { findings }: LintReport,
): Promise<readonly VolumeChanges[]> {
  const guest = await GuestFiles.of(disk);
  const claims = await claimsOn(guest.volumes.map(({ volume }) => volume));
  const changes: Change[] = [];
  for (const { remedy } of findings) {
    for (const path of remedy?.paths ?? []) {
      if (remedy!.do === 'remove' || remedy!.do === 'empty') changes.push({ do: remedy!.do, path });
      else await collect(guest, path, remedy!.do === 'clear', changes);
    }
  }
  const volumes = new Map<GuestVolume, (Change & { within: string })[]>();
  for (const change of changes) {
    const place = guest.within(change.path);
    const volume = place && guest.volumes.find(({ system }) => system === place.system);
    if (!volume || !place) continue;
    assertWritable(volume, claims.get(volume.volume), change.path);
    volumes.set(volume, [...(volumes.get(volume) ?? []), { ...change, within: place.path }]);
  }
  return [...volumes].map(([{ volume }, all]) => ({ volume, changes: all }));
}

/** Everything below a directory, what lies deepest first; without `directories` files alone. */
async function collect(
  guest: GuestFiles,
  folder: string,
  directories: boolean,
  into: Change[],
): Promise<void> {
  const entries = [...(await guest.list(folder))].sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const { name, node } of entries) {
    const path = `${folder}/${name}`;
    if (node.kind === 'directory') {
      await collect(guest, path, directories, into);
      if (directories && !guest.isMount(path)) into.push({ do: 'remove directory', path });
    } else if (directories || node.kind === 'file') into.push({ do: 'remove', path });
    if (into.length <= mostChanges) continue;
    throw new DiskError(
      'unsupported',
      `There are more than ${mostChanges} files to remove below '${folder}'`,
      {
        path: folder,
        detail: { fix: 'clean it in the guest' },
      },
    );
  }
}

function assertWritable({ system, volume }: GuestVolume, claim: string | undefined, path: string): void {
  const where = volumeName(volume);
  if (!system?.kind.startsWith('ext') || system.needsRecovery) {
    const why = system?.needsRecovery ? 'was not unmounted' : 'is not ext2, ext3 or ext4';
    throw new DiskError('unsupported', `Nothing can be changed on ${where}: it ${why}`, {
      path,
      detail: { fix: 'shut the guest down properly, or clean it in the guest' },
    });
  }
  // A partition may say what it likes of its type; what else stands on a logical volume would see it change.
  const claimed = volume.logical ? claim : undefined;
  const apart = volume.pieces.length === 1 ? claimed : `it lies in ${volume.pieces.length} pieces`;
  if (apart !== undefined) {
    throw new DiskError('unsupported', `Nothing can be changed on ${where}: ${apart}`, {
      path,
      detail: { fix: 'clean it in the guest' },
    });
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
  if (/["\\\x00-\x1f\x7f]/.test(path)) {
    throw new DiskError('unsupported', `${JSON.stringify(path)} cannot be removed from outside`, {
      path,
      detail: { fix: 'remove it in the guest' },
    });
  }
}

/**
 * Copies an image as raw into `path`, which is not there yet, and changes the copy. Throws `corrupt` where a file system is not sound before or
 * after, or something of it is still found then; `not-found` where e2fsprogs are missing.
 */
export async function makeFixed(
  image: Image,
  path: string,
  plan: readonly VolumeChanges[],
  options: {
    readonly signal?: AbortSignal;
    readonly onProgress?: (done: number, total: number) => void;
  } = {},
): Promise<void> {
  requireTools({ debugfs: 'e2fsprogs', e2fsck: 'e2fsprogs' });
  await copyImage(image, path, options, 'raw');
  const [cwd, name] = [dirname(path), basename(path)];
  const { signal } = options;
  for (const { volume, changes } of plan) {
    // A relative name: a question mark in the folder's would be taken for the beginning of options.
    const device = `${name}?offset=${volume.offset}`;
    await check(device, 'is not sound', cwd, signal);
    const requests = join(cwd, `${name}.requests`);
    writeFileSync(
      requests,
      changes
        .flatMap(requestsFor)
        .map((line) => `${line}\n`)
        .join(''),
    );
    await runTool('debugfs', ['-w', '-f', basename(requests), device], { cwd, signal });
    await check(device, 'is not sound any more after the changes', cwd, signal);
  }
  await using changed = await openImageFile(path, { format: 'raw' });
  const left = (await lintImage(changed)).findings.find(({ remedy }) => remedy);
  if (left)
    throw new DiskError('corrupt', `'${left.path}' is still there after it was removed`, { path: left.path });
}

function requestsFor({ do: what, within }: VolumeChanges['changes'][number]): readonly string[] {
  switch (what) {
    case 'remove':
      return [`rm "${within}"`];
    case 'remove directory':
      return [`rmdir "${within}"`];
    case 'empty':
      // The file stays, with its owner and attributes.
      return [`punch "${within}" 0`, `set_inode_field "${within}" size 0`];
  }
}

async function check(device: string, verdict: string, cwd: string, signal?: AbortSignal): Promise<void> {
  try {
    await runTool('e2fsck', ['-f', '-n', device], { cwd, signal });
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new DiskError(
      'corrupt',
      `The file system at byte ${device.split('=').at(-1)} ${verdict}, says e2fsck`,
      {
        cause,
        detail: { fix: 'have it checked in the guest' },
      },
    );
  }
}
