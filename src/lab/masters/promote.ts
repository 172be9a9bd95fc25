import { chmodSync } from 'node:fs';
import { dirname } from 'node:path';
import { DiskError } from '../../errors.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { convertImages } from '../../operations/convert.ts';
import { copyFileSparse } from '../../platform/copy-file.ts';
import type { OnProgress } from '../../storage/store.ts';
import { writeFlatCopy } from '../disks/flat-copy.ts';
import { isBlockDevice } from '../disks/overlay.ts';
import { type Lab, realPath, seatPaths } from '../lab.ts';
import { openSeatDisk, type SeatDiskFile, seatDiskFile } from '../seats/seat-disk.ts';
import { assertFooting } from '../standing/footing.ts';
import type { MasterVersion } from './library.ts';
import type { DigestOptions } from './master.ts';
import { masterFormats, nameForVersionsOf, parseMasterName } from './name.ts';
import { publishMaster } from './publish.ts';

export const promoteMethods = ['flatten', 'commit'] as const;

export interface PromoteOptions {
  /** 'flatten': everything the guest reads is copied. 'commit': the master is copied, and what differs written into it. */
  readonly method: (typeof promoteMethods)[number];
  /** Default: that of the master, without number. */
  readonly name?: string;
  /** Also a disk that is encrypted: the master is not, and anybody may read it. */
  readonly plain?: boolean;
  readonly now: () => number;
  readonly digest?: DigestOptions;
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

/**
 * Where a promoted seat would go: the folder of the lab's master, and the name of the version. Throws `unsupported` where the master is a
 * block device: what is written into /dev is memory, and gone at the next start.
 */
export function promoteTarget(
  lab: Lab,
  seat: string,
  name?: string,
): { readonly folder: string; readonly name: string } {
  const master = realPath(lab.spec.master.path);
  if (isBlockDevice(master)) throw noVersionsBeside(lab, seat, name);
  const folder = dirname(master);
  if (name === undefined) return { folder, name: nameForVersionsOf(master) };
  const parsed = parseMasterName(name);
  if (parsed.number === undefined) return { folder, name: parsed.name };
  throw new DiskError('bad-argument', 'The number of a version is given by itself', {
    field: 'master',
    detail: { fix: `write for example --as ${parsed.name}` },
  });
}

function noVersionsBeside(lab: Lab, seat: string, name: string | undefined): DiskError {
  const { path } = lab.spec.master;
  const { disk } = seatPaths(lab.pool, seat);
  return new DiskError(
    'unsupported',
    `The master '${path}' is a block device: no version can be kept beside it`,
    {
      path,
      field: 'master',
      detail: {
        fix: `make one in a folder of its own: cowherd seal '${disk}' --name '${name ?? lab.name}' --folder masters`,
      },
    },
  );
}

/** Throws `bad-argument` where a disk is encrypted and nobody said that what it holds may be read by who reads masters. */
export function assertPlainWanted({ seat, path, encryption }: SeatDiskFile, plain = false): void {
  if (!encryption || plain) return;
  throw new DiskError(
    'bad-argument',
    `The disk of ${seat} is encrypted, and a master is not: who may read that, reads what ${seat} holds`,
    {
      path,
      field: 'plain',
      detail: { fix: "--plain makes it all the same; 'cowherd save' keeps a copy that is encrypted" },
    },
  );
}

/** What the seat's disk can be committed into a copy of. Throws `unsupported`, and as `assertFooting`. */
export async function assertCommittable(lab: Lab, disk: SeatDiskFile, signal: AbortSignal | undefined) {
  const { master } = disk;
  const format = masterFormats.find((one) => one === master?.format);
  if (!master || format === undefined || master.files.length !== 1) {
    throw new DiskError('unsupported', `${disk.seat} cannot be committed into a copy of its master`, {
      path: disk.path,
      field: 'method',
      detail: { fix: 'its master is no single qcow2 or raw image: leave --method commit out' },
    });
  }
  // Of the chain only the seat's own layer is written into the copy.
  await assertFooting(lab, disk.head, master, signal);
  return { master, format };
}

/**
 * Makes a seat's disk a new version of the master. The seat and its master stay as they are. The caller has seen that the
 * seat does not run. Throws as `seatDiskFile`, `assertPlainWanted` and `publishMaster`.
 */
export async function promoteSeat(lab: Lab, seat: string, options: PromoteOptions): Promise<MasterVersion> {
  const disk = await seatDiskFile(lab, seat);
  assertPlainWanted(disk, options.plain);
  const { method, now, digest, onProgress, signal } = options;
  const target = promoteTarget(lab, seat, options.name);
  await using image = await openSeatDisk(disk);
  const origin = {
    how: 'promote',
    method,
    lab: lab.name,
    seat,
    from: disk.master?.content ?? disk.head.provenance!.master,
  };
  if (method === 'flatten') {
    const make = (path: string) => writeFlatCopy(image, path, { onProgress, signal });
    return await publishMaster({ ...target, format: 'qcow2', origin, make, digest, now });
  }
  const { master, format } = await assertCommittable(lab, disk, signal);
  const make = async (path: string) => {
    await copyFileSparse(master.path, path, { signal });
    chmodSync(path, 0o644);
    await using copy = await openImageFile(path, {
      format,
      policy: trustedImages,
      writable: true,
      resize: true,
    });
    if (copy.size < image.size) await copy.resize(image.size);
    await convertImages([image], copy, { layersCopied: 1, verbatim: true, onProgress, signal });
    await copy.flush();
  };
  return await publishMaster({ ...target, format, origin, make, digest, now });
}
