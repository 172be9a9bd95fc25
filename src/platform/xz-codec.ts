import { registerCodec } from '../codecs/codec.ts';
import { StreamCodec } from '../codecs/stream-codec.ts';
import { unpackStream } from './unpack-stream.ts';

/** Makes xz-embedded the codec for units that are xz files. */
export function registerXzCodec(): void {
  registerCodec(new StreamCodec('xz', (chunks, name) => unpackStream('xz', chunks, name)));
}
