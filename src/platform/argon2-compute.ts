import { argon2i, argon2id } from 'hash-wasm';
import type { Argon2Request } from './argon2.ts';

/** Argon2 in WebAssembly. The memory that it takes is given back only with its thread. */
export function computeArgon2({ kind, password, salt, cost, length }: Argon2Request): Promise<Uint8Array> {
  return (kind === 'argon2i' ? argon2i : argon2id)({
    password,
    salt,
    iterations: cost.passes,
    memorySize: cost.kibibytes,
    parallelism: cost.lanes,
    hashLength: length,
    outputType: 'binary',
  });
}
