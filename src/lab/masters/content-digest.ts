import { createHash } from 'node:crypto';
import { pageAligned } from '../../bytes/page-buffer.ts';
import { isZero } from '../../bytes/zero.ts';
import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import type { OnProgress } from '../../storage/store.ts';

/** Guest bytes that one leaf covers. */
const leafBytes = 1024 * 1024;

/** Leaves that are read and hashed at the same time. */
const inFlight = 4;

/** How a digest begins that was computed by the rules below. */
export const contentDigestPrefix = 'cowherd1:';

/**
 * The digest of what a guest reads, equal for images of the same content and size whatever their format, chain, or
 * allocation.
 *
 * The content is cut into leaves of 1 MiB (the last may be shorter). A leaf whose bytes are all zero, stored or not,
 * is left out. The digest is `cowherd1:` and the SHA-256, in hexadecimal, of: the ASCII text `cowherd content 1\n`;
 * the content's size in bytes (64 bits, big-endian); and for each leaf that is not all zero, in order, its number
 * counted from 0 (64 bits, big-endian) and the SHA-256 of its bytes. So leaves can be hashed in parallel, and holes
 * cost nothing.
 *
 * Progress is in guest bytes. Throws `aborted`, and what reading throws.
 */
export async function contentDigest(
  image: Image,
  options: { readonly onProgress?: OnProgress; readonly signal?: AbortSignal } = {},
): Promise<string> {
  const root = createHash('sha256').update('cowherd content 1\n').update(uint64(image.size));
  const buffers = Array.from({ length: inFlight }, () => pageAligned(leafBytes));
  const pending: { number: number; leaf: Promise<Uint8Array | undefined> }[] = [];
  let next = 0;
  let started = 0;

  const settle = async () => {
    const { number, leaf } = pending.shift()!;
    const hash = await leaf;
    if (hash) root.update(uint64(number)).update(hash);
    options.onProgress?.(Math.min(image.size, (number + 1) * leafBytes), image.size);
  };
  try {
    for await (const page of image.runs()) {
      for (const run of page) {
        if (run.kind !== 'data' && run.kind !== 'packed') continue;
        const last = Math.floor((run.offset + run.length - 1) / leafBytes);
        for (let number = Math.max(next, Math.floor(run.offset / leafBytes)); number <= last; number++) {
          if (options.signal?.aborted) throw new DiskError('aborted', 'Computing the digest was interrupted');
          if (pending.length === inFlight) await settle();
          const leaf = hashLeaf(image, number, buffers[started++ % inFlight]);
          // It is awaited in order; a rejection until then must not end the process.
          leaf.catch(() => undefined);
          pending.push({ number, leaf });
          next = number + 1;
        }
      }
    }
    while (pending.length > 0) await settle();
  } finally {
    await Promise.allSettled(pending.map((one) => one.leaf));
  }
  options.onProgress?.(image.size, image.size);
  return contentDigestPrefix + root.digest('hex');
}

async function hashLeaf(image: Image, number: number, buffer: Uint8Array): Promise<Uint8Array | undefined> {
  const offset = number * leafBytes;
  const bytes = buffer.subarray(0, Math.min(leafBytes, image.size - offset));
  await image.read(offset, bytes);
  if (isZero(bytes)) return undefined;
  // In the thread pool, so that leaves are hashed in parallel.
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>));
}

function uint64(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  return bytes;
}
