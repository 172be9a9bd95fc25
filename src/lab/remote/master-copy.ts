import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError } from '../../errors.ts';
import { factsDiffer, fileFacts, type Master } from '../master.ts';
import { watchMs } from './collect.ts';
import type { RemoteHost } from './host.ts';
import type { RemoteMaster } from './lab.ts';
import { encodeRecord, type MasterCopy, names } from './records.ts';

/**
 * Copies the master of this machine to a host, with its holes, reads it back, and compares digests; its record is written last, so that a
 * copy that was cut off counts for nothing and is made anew. Throws `in-use` while another machine makes the same copy, `changed` where the
 * master changes meanwhile, `corrupt` where the host does not give back what it was given.
 */
export async function copyMaster(
  { host, pool }: RemoteHost,
  { content, format, size, here }: RemoteMaster & { readonly here: Master },
  file: string,
  signal?: AbortSignal,
): Promise<MasterCopy> {
  await removeCutOff();
  const [before] = here.files;
  const sha256 = await fileDigest(here.path, signal);
  await pool.upload(file, here.path, before.size);
  const dated = await pool.factsNow(file);
  const back = await pool.digest(file, signal);
  const change = factsDiffer(before, fileFacts(here.path));
  if (change !== undefined) {
    await pool.remove(file);
    throw new DiskError('changed', `'${here.path}' changed while it was copied to ${host.name}: ${change}`, {
      path: here.path,
    });
  }
  if (back !== sha256 || dated === undefined || (await pool.factsNow(file))?.mtime !== dated.mtime) {
    await pool.remove(file);
    throw new DiskError('corrupt', `${host.name} does not give back the master as it was sent`, {
      path: `${host.pool}/${file}`,
      detail: { sent: sha256, got: back },
    });
  }
  const { mtime } = dated;
  const copy: MasterCopy = { v: 1, file, bytes: before.size, sha256, mtime, format, size, content };
  await pool.remove(names.copyRecord(file));
  await pool.put(names.copyRecord(file), encodeRecord(copy), '0644');
  return copy;

  async function removeCutOff(): Promise<void> {
    const first = await pool.factsNow(file);
    if (!first) return;
    await sleep(watchMs, undefined, { signal });
    if ((await pool.factsNow(file))?.mtime !== first.mtime) {
      throw new DiskError('in-use', `Another cowherd is copying the master to ${host.name}`, {
        path: `${host.pool}/${file}`,
        detail: { fix: 'wait for it to end and try again' },
      });
    }
    await pool.remove(file);
  }
}

async function fileDigest(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: 1024 * 1024, signal }))
    hash.update(piece as Uint8Array);
  return hash.digest('hex');
}
