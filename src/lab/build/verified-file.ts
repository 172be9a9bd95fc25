import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { DiskError } from '../../errors.ts';
import { asSystemError } from '../../platform/errno.ts';

/** Checksums that publishers of images give, with their hexadecimal digits. */
export const checksums = { sha256: 64, sha512: 128 } as const;
export type Checksum = keyof typeof checksums;

/** Throws `changed` where a file's checksum is not this, and `bad-argument` where that is none. */
export async function verifyFile(
  path: string,
  kind: Checksum,
  digest: string,
  signal?: AbortSignal,
): Promise<void> {
  const expected = digest.toLowerCase();
  const name = kind.replace('sha', 'SHA-');
  if (expected.length !== checksums[kind] || !/^[0-9a-f]*$/.test(expected)) {
    throw new DiskError('bad-argument', `"${digest}" is no ${name}: ${checksums[kind]} hexadecimal digits`, {
      field: kind,
    });
  }
  const hash = createHash(kind);
  try {
    for await (const piece of createReadStream(path, { signal, highWaterMark: 1024 * 1024 }))
      hash.update(piece as Buffer);
  } catch (cause) {
    if (signal?.aborted) throw new DiskError('aborted', 'Checking the file was interrupted', { cause });
    throw asSystemError(cause, 'read', path);
  }
  const found = hash.digest('hex');
  if (found === expected) return;
  throw new DiskError('changed', `'${path}' is not what it should be: its ${name} is ${found}`, {
    path,
    detail: { fix: 'load it again, from where its checksum comes from' },
  });
}
