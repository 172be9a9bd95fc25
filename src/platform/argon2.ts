import { Worker } from 'node:worker_threads';
import type { Argon2Cost } from '../crypto/primitives.ts';
import { DiskError } from '../errors.ts';

/** What the thread is told. */
export interface Argon2Request {
  readonly kind: 'argon2i' | 'argon2id';
  readonly password: Uint8Array;
  readonly salt: Uint8Array;
  readonly cost: Argon2Cost;
  readonly length: number;
}

export type Argon2Answer = { readonly key: Uint8Array } | { readonly error: string };

/** As that of the cipher threads; from source there is none. */
const workerFile = import.meta.url.endsWith('.cjs') ? './argon2-worker.cjs' : './argon2-worker.js';

/**
 * Argon2 in a thread of its own: it takes seconds, which the signal ends, and up to gigabytes. Throws `aborted`, and `io` where
 * it fails.
 */
export async function argon2InThread(request: Argon2Request, signal?: AbortSignal): Promise<Uint8Array> {
  try {
    return import.meta.url.endsWith('.ts') ? await computeHere(request) : await hire(request, signal);
  } catch (cause) {
    if (signal?.aborted)
      throw new DiskError('aborted', 'The key derivation was stopped', { cause: signal.reason });
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new DiskError('io', `The key derivation failed: ${why}`, { field: 'kdf', cause });
  }
}

async function computeHere(request: Argon2Request): Promise<Uint8Array> {
  const { computeArgon2 } = await import('./argon2-compute.ts');
  return computeArgon2(request);
}

function hire(request: Argon2Request, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const worker = new Worker(new URL(workerFile, import.meta.url), { workerData: request });
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
