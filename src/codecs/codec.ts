import { unpackAdc } from './adc.ts';
import { bunzip2 } from './bunzip2.ts';
import { DirectCodec } from './direct-codec.ts';
import { plainDeflate, plainZlib } from './inflate.ts';
import { unpackLzfse } from './lzfse.ts';
import { StreamCodec } from './stream-codec.ts';

/**
 * Names of compressions as image formats mean them: raw deflate (RFC 1951), deflate in a zlib stream (RFC 1950), zstd
 * frames (RFC 8878), whole files of bzip2 and xz, and Apple's LZFSE and ADC.
 */
export type CodecName = 'deflate' | 'zlib' | 'zstd' | 'bzip2' | 'xz' | 'lzfse' | 'adc';

/** Packs and unpacks whole units (clusters, grains). Stateless to its callers: calls may overlap. */
export interface Codec {
  readonly name: CodecName;
  /**
   * Fills `into` exactly from `packed`, whatever padding follows the packed data. Throws `corrupt` when the data
   * is damaged or yields less than `into` holds.
   */
  unpack(packed: Uint8Array, into: Uint8Array): Promise<void>;
  /** The packed form of `bytes`, or undefined when it takes more than `limit` bytes. Absent: it cannot pack. */
  pack?(bytes: Uint8Array, limit: number): Promise<Uint8Array | undefined>;
}

/** Functions that call what unpacks, so that a program loads it when there is something to unpack. */
const codecs = new Map<CodecName, Codec>([
  ['deflate', plainDeflate],
  ['zlib', plainZlib],
  ['bzip2', new StreamCodec('bzip2', (chunks, name) => bunzip2(chunks, name))],
  ['lzfse', new DirectCodec('lzfse', (packed, into) => unpackLzfse(packed, into))],
  ['adc', new DirectCodec('adc', (packed, into) => unpackAdc(packed, into))],
]);

/** Makes `codec` the one for its name from now on; a runtime brings faster ones than the built-in. */
export function registerCodec(codec: Codec): void {
  codecs.set(codec.name, codec);
}

/** The codec of that name, or undefined where this runtime has none. */
export function findCodec(name: CodecName): Codec | undefined {
  return codecs.get(name);
}

/** Where there is one that packs and unpacks, for the message of who lacks it (a page in a browser). */
export function whoPacks(name: CodecName): string {
  const wasm = name === 'zstd' ? ", before Node 22.15 by the package '@bokuweb/zstd-wasm'" : '';
  return `in Node, 'cowherd/node' brings one that can${wasm}`;
}
