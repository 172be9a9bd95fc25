import { createHash } from 'node:crypto';
import type { DigestName, ManifestLine } from '../../appliance/manifest.ts';
import { pageAligned } from '../../bytes/page-buffer.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';

const readBytes = 1024 * 1024;

/** The digest of a source's bytes, in lower-case hexadecimal digits. `onBytes` is told of each piece's length. */
export async function digestOf(
  source: ByteSource,
  algorithm: DigestName,
  { signal, onBytes }: { readonly signal?: AbortSignal; readonly onBytes?: (count: number) => void } = {},
): Promise<string> {
  const hash = createHash(algorithm.toLowerCase());
  const buffer = pageAligned(readBytes);
  for (let at = 0; at < source.size; at += readBytes) {
    if (signal?.aborted) {
      throw new DiskError('aborted', 'The digest was stopped', { path: source.name, cause: signal.reason });
    }
    const piece = buffer.subarray(0, Math.min(readBytes, source.size - at));
    await source.read(at, piece);
    hash.update(piece);
    onBytes?.(piece.length);
  }
  return hash.digest('hex');
}

/** Throws `corrupt` where a file is not what the manifest says. */
export function assertDigest(line: ManifestLine, digest: string, path: string): void {
  if (digest === line.digest) return;
  throw new DiskError(
    'corrupt',
    `'${line.file}' is not what the manifest says: its ${line.algorithm} is ${digest}, not ${line.digest}`,
    {
      path,
      field: line.file,
      detail: { fix: 'copy or download it again; nothing was imported' },
    },
  );
}
