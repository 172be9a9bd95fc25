import { type Codec, findCodec, registerCodec } from '../../src/codecs/codec.ts';
import { plainDeflate, plainZlib } from '../../src/codecs/inflate.ts';
import { registerZlibCodec } from '../../src/platform/zlib-codec.ts';

/**
 * Unpacks on the calling thread from now on: for clusters as small as the seeds', handing them to zlib's threads costs
 * far more than the work. What zlib's codec makes of damaged data is asked of it by the target `deflate`.
 */
export function unpackHere(): void {
  registerZlibCodec();
  for (const plain of [plainDeflate, plainZlib] satisfies Codec[]) {
    const zlib = findCodec(plain.name)!;
    registerCodec({
      name: plain.name,
      unpack: (packed, into) => plain.unpack(packed, into),
      pack: (bytes, limit) => zlib.pack!(bytes, limit),
    });
  }
}
