import type { CipherSpec } from './sector-cipher.ts';

/** One cipher on several cores. */
export interface BulkCipher extends Disposable {
  /** Encrypts or decrypts whole sectors in place, in memory that came from `CipherCrew.borrow`. */
  transform(direction: 'encrypt' | 'decrypt', sector: number, bytes: Uint8Array): Promise<void>;
}

/** Who does a runtime's large work on other cores. */
export interface CipherCrew {
  /** Bytes of a piece of work. */
  readonly pieceBytes: number;
  /** Memory that all cores see, `pieceBytes` long; waits until some is free. Give it back. */
  borrow(): Promise<Uint8Array>;
  giveBack(memory: Uint8Array): void;
  /** Undefined: there is nobody who could help. */
  start(spec: CipherSpec, key: Uint8Array): BulkCipher | undefined;
}

let crew: CipherCrew | undefined;

/** Makes these the ones that large work is given to. */
export function registerCipherCrew(registered: CipherCrew): void {
  crew = registered;
}

export function cipherCrew(): CipherCrew | undefined {
  return crew;
}
