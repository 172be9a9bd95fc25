import { chmodSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { openImageFile, trustedImages } from '../../node.ts';
import { createAside, sweepAsides } from '../../platform/atomic-file.ts';
import { realPathOf } from '../../platform/host-names.ts';
import { makeFolder, writeJsonFile } from '../../platform/json-file.ts';
import { contentDigest } from '../content-digest.ts';
import { type DigestOptions, inspectMaster, rememberContent } from '../master.ts';
import { lockPool } from '../pool-lock.ts';
import { folderLock, type MasterRecord, type MasterVersion, nextNumber, recordPathOf } from './library.ts';
import { type MasterFormat, versionLabel } from './name.ts';

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

/**
 * Adds a version to a folder of masters. The image is written aside and its content's digest computed; then comes the
 * record, which reserves the number, then the image, durable, under its name. So a kill at any moment leaves no image without its record, and at most a record without its image, which `gc` removes. The image is
 * read-only from its first moment on. Throws what `make` throws, with nothing left.
 */
export async function publishMaster(options: PublishOptions): Promise<MasterVersion> {
  const { name, format } = options;
  makeFolder(options.folder);
  const folder = realPathOf(options.folder);
  sweepAsides(folder);
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
  const lock = folderLock(folder);
  let version: MasterVersion;
  {
    using _lock = await lockPool(lock.path, lock.what);
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
    writeJsonFile(recordPath, record);
    await using named = createAside(path);
    renameSync(aside.path, named.path);
    await named.commit({ replace: false });
    version = { name, number, label, format, path, recordPath, record };
    rememberContent(await inspectMaster(path, format), content);
  }
  return version;
}
