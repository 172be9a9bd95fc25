import { type Argon2Cost, registerPrimitives } from '../crypto/primitives.ts';
import { argon2InThread } from './argon2.ts';
import { OpensslPrimitives } from './openssl.ts';

class NodePrimitives extends OpensslPrimitives {
  argon2(
    kind: 'argon2i' | 'argon2id',
    password: Uint8Array,
    salt: Uint8Array,
    cost: Argon2Cost,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    return argon2InThread({ kind, password, salt, cost, length }, signal);
  }
}

/** Makes OpenSSL, as Node has it, what encryption is built from. */
export function registerNodePrimitives(): void {
  registerPrimitives(new NodePrimitives());
}
