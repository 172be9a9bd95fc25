import { chmodSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isDiskError } from '../../errors.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { createAside } from '../../platform/atomic-file.ts';
import { recordFolder } from '../../platform/dependents.ts';
import { realPathOf } from '../../platform/host-names.ts';
import { makeFolder, writeJsonFile } from '../../platform/json-file.ts';
import { sweepFor } from '../../storage/file-target.ts';
import { nameExists } from '../disks/overlay.ts';
import { lockPool } from '../pool/pool-lock.ts';
import { contentDigest } from './content-digest.ts';
import { folderLock, type MasterRecord, type MasterVersion, nextNumber, recordPathOf } from './library.ts';
import { type DigestOptions, inspectMaster, rememberContent } from './master.ts';
import { type MasterFormat, versionLabel } from './name.ts';
import { clearUnfinished, hasUnfinished } from './unfinished.ts';

export interface PublishOptions {
  /** Where versions are kept; made where it is missing. */
  readonly folder: string;
  /** `debian-12`: it gets the next number. */
  readonly name: string;
  readonly format: MasterFormat;
  readonly origin: MasterRecord['origin'];
  /** Writes the whole image at `path`, a new name in the folder, and closes it. It need not be durable. */
  make(path: string): Promise<void>;
  readonly digest?: DigestOptions;
  readonly now: () => number;
}

const readOnly = 0o444;

/** How long to wait, with an image that may have taken hours, for who adds to the masters or collects some. */
const lockWaitMs = 300_000;

/**
 * Adds a version to a folder of masters. The image is written aside and its content's digest computed. Then, under the folder's lock, it
 * gets a hidden name that tells its number, then its record is written, then it gets its own name, durable. So a kill at any moment leaves no image without its record, and what it leaves else is known for what it is (`clearUnfinished`): the next one gets that
 * number. The image is read-only from its first moment on. Throws what `make` throws, with nothing left; `in-use` where another one does
 * not give the lock back for minutes.
 */
export async function publishMaster(options: PublishOptions): Promise<MasterVersion> {
  const { name, format } = options;
  makeFolder(options.folder);
  const folder = realPathOf(options.folder);
  const lock = folderLock(folder);
  await makeRoom(folder);
  await using aside = createAside(join(folder, `${name}@new.${format}`));
  await options.make(aside.path);
  chmodSync(aside.path, readOnly);
  let size: number;
  let content: string;
  {
    await using image = await openImageFile(aside.path, { format, policy: trustedImages });
    size = image.size;
    content = await contentDigest(image, options.digest);
  }
  let version: MasterVersion;
  {
    using _lock = await lockPool(lock.path, lock.what, {
      waitMs: lockWaitMs,
      signal: options.digest?.signal,
    });
    clearUnfinished(folder);
    const number = nextNumber(folder, name);
    const label = versionLabel(name, number);
    const path = join(folder, `${label}.${format}`);
    const recordPath = recordPathOf(folder, label);
    const created = new Date(options.now()).toISOString();
    const record: MasterRecord = {
      version: 1,
      master: label,
      format,
      size,
      content,
      created,
      origin: options.origin,
    };
    await using named = createAside(path);
    renameSync(aside.path, named.path);
    writeJsonFile(recordPath, record);
    try {
      await named.commit({ replace: false });
    } catch (error) {
      // Whatever has the name then is not what the record says.
      if (isDiskError(error, 'exists') || !nameExists(path)) rmSync(recordPath, { force: true });
      throw error;
    }
    version = { name, number, label, format, path, recordPath, record };
    await remember(version, content);
  }
  return version;
}

/** Removes what killed runs have left, as large as images. While another one works on the masters, a part is left for later. */
async function makeRoom(folder: string): Promise<void> {
  const lock = folderLock(folder);
  if (hasUnfinished(folder)) {
    try {
      using _lock = await lockPool(lock.path, lock.what);
      clearUnfinished(folder);
    } catch (error) {
      if (isDiskError(error, 'in-use')) return;
      throw error;
    }
  }
  for (const path of [join(folder, recordFolder), lock.path]) sweepFor(path, true);
}

/** The version is there, whatever becomes of this: the first lab would compute it again. */
async function remember({ path, format }: MasterVersion, content: string): Promise<void> {
  try {
    rememberContent(await inspectMaster(path, format), content);
  } catch (error) {
    if (!isDiskError(error)) throw error;
  }
}
