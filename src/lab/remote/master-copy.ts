import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { DiskError, isDiskError } from '../../errors.ts';
import { factsDiffer, fileFacts, type Master } from '../masters/master.ts';
import type { RemoteHost } from './host.ts';
import type { RemoteMaster } from './lab.ts';
import { encodeRecord, type MasterCopy, names } from './records.ts';
import { atWork, removeLeftover } from './seat-files.ts';

/**
 * Copies the master of this machine to a host, with its holes, reads it back, and compares digests; its record is written last, so that a
 * copy that was cut off counts for nothing and is made anew. Throws `in-use` while another machine makes the same copy, `changed` where the
 * master changes meanwhile, `corrupt` where the host does not give back what it was given.
 */
export async function copyMaster(
  remote: RemoteHost,
  { content, format, size, here }: RemoteMaster & { readonly here: Master },
  file: string,
  signal?: AbortSignal,
): Promise<MasterCopy> {
  const { host, pool } = remote;
  // Another machine may have been faster: seats may stand on its copy by now.
  const known = (await remote.copies()).find((copy) => copy.file === file && copy.content === content);
  if (known) return known;
  await removeLeftover(pool, file, signal);
  const [before] = here.files;
  const sha256 = await fileDigest(here.path, signal);
  try {
    await pool.upload(file, here.path, before.size);
  } catch (error) {
    throw isDiskError(error, 'exists') ? atWork(`${pool.path}/${file}`) : error;
  }
  const dated = await pool.factsNow(file);
  const back = await pool.digest(file, signal);
  const change = factsDiffer(before, fileFacts(here.path));
  const after = await pool.factsNow(file);
  // One that was made anew meanwhile is another's.
  if (after !== undefined && after.mtime !== dated?.mtime) throw atWork(`${pool.path}/${file}`);
  if (change !== undefined) {
    await pool.remove(file);
    throw new DiskError('changed', `'${here.path}' changed while it was copied to ${host.name}: ${change}`, {
      path: here.path,
    });
  }
  if (back !== sha256 || dated === undefined || after === undefined) {
    await pool.remove(file);
    throw new DiskError('corrupt', `${host.name} does not give back the master as it was sent`, {
      path: `${host.pool}/${file}`,
      detail: { sent: sha256, got: back },
    });
  }
  const { mtime } = dated;
  const copy: MasterCopy = { v: 1, file, bytes: before.size, sha256, mtime, format, size, content };
  await pool.remove(names.copyRecord(file));
  await pool.put(names.copyRecord(file), encodeRecord(copy), { mode: '0644' });
  return copy;
}

async function fileDigest(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: 1024 * 1024, signal }))
    hash.update(piece as Uint8Array);
  return hash.digest('hex');
}
