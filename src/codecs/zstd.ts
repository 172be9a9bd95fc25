import { isBytes, notBytes } from '../bytes/is-bytes.ts';
import { DiskError } from '../errors.ts';
import { type Codec, registerCodec } from './codec.ts';
import { damagedZstd, zstdFrameLength } from './zstd-frame.ts';

/** What unpacks zstd frames: `ZSTDDecoder` of the package `zstddec` is one, once it is initialised. */
export interface ZstdDecoder {
  /** What one frame holds, which is at most `room` bytes; no bytes for one that is damaged. */
  decode(frame: Uint8Array, room: number): Uint8Array;
}

/**
 * Has zstd unpacked by `decoder` from now on, for runtimes that bring none of their own (pages in a browser). Packing stays unsupported.
 */
export function useZstd(decoder: ZstdDecoder): void {
  const codec: Codec = {
    name: 'zstd',
    unpack: (packed, into) => unpackFrames(packed, into, (frame, rest) => decodeFrame(decoder, frame, rest)),
  };
  registerCodec(codec);
}

/**
 * Fills `into` from the zstd frames at the start of `packed`. More than one is rare and allowed; what follows the last one that is needed is not
 * looked at. `unpack` answers how many bytes it has filled; below zero: the frame is damaged. Throws `corrupt`.
 */
export async function unpackFrames(
  packed: Uint8Array,
  into: Uint8Array,
  unpack: (frame: Uint8Array, into: Uint8Array) => number | Promise<number>,
): Promise<void> {
  for (let from = 0, to = 0; to < into.length; ) {
    const end = from + zstdFrameLength(packed, from);
    const filled = await unpack(packed.subarray(from, end), into.subarray(to));
    if (filled < 0) throw damagedZstd('a frame that is not zstd, or holds more than is due');
    from = end;
    to += filled;
  }
}

/** As `unpackFrames` asks it of `unpack`. Throws `bad-argument` where the decoder answers no bytes (a promise of some, say). */
export function decodeFrame(decoder: ZstdDecoder, frame: Uint8Array, into: Uint8Array): number {
  const bytes: unknown = decoder.decode(frame, into.length);
  // What has no length would be taken for a frame that filled nothing, and the rest would read as zeroes.
  if (!isBytes(bytes))
    throw new DiskError('bad-argument', `The decoder given to useZstd(): ${notBytes(bytes)}`);
  // No bytes are what an error is told by: a frame that is to be skipped holds none either.
  if ((bytes.length === 0 && (frame[3] ?? 0) !== 0x18) || bytes.length > into.length) return -1;
  into.set(bytes);
  return bytes.length;
}
