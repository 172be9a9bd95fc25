import type { CipherSpec } from './sector-cipher.ts';

/** One cipher on several cores. */
export interface BulkCipher extends Disposable {
  /** Whether the others have started; until then one's own work is done sooner. */
  readonly ready: boolean;
  /** Encrypts or decrypts whole sectors, `bytes` into `into` (which may be the same), both in the crew's memory. */
  transform(
    direction: 'encrypt' | 'decrypt',
    sector: number,
    bytes: Uint8Array,
    into: Uint8Array,
  ): Promise<void>;
}

/** Who does a runtime's large work on other cores. */
export interface CipherCrew {
  /** Bytes of a piece of work. */
  readonly pieceBytes: number;
  /** Memory that all cores see, `pieceBytes` long; waits until some is free. Give it back. */
  borrow(): Promise<Uint8Array>;
  giveBack(memory: Uint8Array): void;
  /**
   * Memory that all cores see for whoever reads or writes much by ciphers, so that nothing need be copied. Undefined where
   * there is none left: any other does as well. Give it back.
   */
  lend(bytes: number): Uint8Array | undefined;
  takeBack(memory: Uint8Array): void;
  /** Whether bytes lie in the crew's memory. */
  owns(bytes: Uint8Array): boolean;
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
