import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { DiskError } from '../../errors.ts';
import { asSystemError } from '../../platform/errno.ts';

/** Throws `changed` where a file's SHA-256 is not this (64 hexadecimal digits), and `bad-argument` where that is none. */
export async function verifyFile(path: string, sha256: string, signal?: AbortSignal): Promise<void> {
  const expected = sha256.toLowerCase();
  if (!/^[0-9a-f]{64}$/.test(expected)) {
    throw new DiskError('bad-argument', `"${sha256}" is no SHA-256: 64 hexadecimal digits`, {
      field: 'sha256',
    });
  }
  const hash = createHash('sha256');
  try {
    for await (const piece of createReadStream(path, { signal, highWaterMark: 1024 * 1024 }))
      hash.update(piece as Buffer);
  } catch (cause) {
    if (signal?.aborted) throw new DiskError('aborted', 'Checking the file was interrupted', { cause });
    throw asSystemError(cause, 'read', path);
  }
  const found = hash.digest('hex');
  if (found === expected) return;
  throw new DiskError('changed', `'${path}' is not what it should be: its SHA-256 is ${found}`, {
    path,
    detail: { fix: 'load it again, from where its checksum comes from' },
  });
}
