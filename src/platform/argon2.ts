import { Worker } from 'node:worker_threads';
import type { Argon2Cost } from '../crypto/primitives.ts';
import { DiskError } from '../errors.ts';
import { threadFile } from './thread-file.ts';

/** What the thread is told. */
export interface Argon2Request {
  readonly kind: 'argon2i' | 'argon2id';
  readonly password: Uint8Array;
  readonly salt: Uint8Array;
  readonly cost: Argon2Cost;
  readonly length: number;
}

export type Argon2Answer = { readonly key: Uint8Array } | { readonly error: string };

/**
 * Argon2 in a thread of its own: it takes seconds, which the signal ends, and up to gigabytes. Where the thread's code is not found
 * it is computed here, and stops for nothing. Throws the signal's reason, and `io` where it fails.
 */
export async function argon2InThread(request: Argon2Request, signal?: AbortSignal): Promise<Uint8Array> {
  try {
    const file = threadFile('argon2-worker');
    return file ? await hire(file, request, signal) : await computeHere(request, signal);
  } catch (cause) {
    signal?.throwIfAborted();
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new DiskError('io', `The key derivation failed: ${why}`, { field: 'kdf', cause });
  }
}

async function computeHere(request: Argon2Request, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const { computeArgon2 } = await import('./argon2-compute.ts');
  signal?.throwIfAborted();
  return computeArgon2(request);
}

function hire(file: URL, request: Argon2Request, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const worker = new Worker(file, { workerData: request });
  return new Promise<Uint8Array>((resolve, reject) => {
    const stop = () => reject(signal?.reason);
    signal?.addEventListener('abort', stop, { once: true });
    worker.on('message', (answer: Argon2Answer) => {
      if ('key' in answer) resolve(answer.key);
      else reject(new Error(answer.error));
    });
    worker.on('error', reject);
    worker.on('exit', () => {
      signal?.removeEventListener('abort', stop);
      reject(new Error('its thread ended'));
    });
    if (signal?.aborted) stop();
  }).finally(() => worker.terminate());
}
