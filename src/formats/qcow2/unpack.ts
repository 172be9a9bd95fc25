import { type CodecName, findCodec, whoPacks } from '../../codecs/codec.ts';
import type { ByteSource } from '../../storage/store.ts';
import { CompressionType, compressionNames } from './constants.ts';
import { corrupt, hex, unsupported } from './errors.ts';

/** Codec names by the header's compression_type. */
const codecNames = { [CompressionType.zlib]: 'deflate', [CompressionType.zstd]: 'zstd' } as const;

export function codecNameOf(compressionType: number): CodecName {
  return codecNames[compressionType as keyof typeof codecNames];
}

/** The codec of an image, or an `unsupported` error that names it. */
export function codecFor(path: string, compressionType: number) {
  const codecName = codecNameOf(compressionType);
  const codec = findCodec(codecName);
  if (codec) return codec;
  const name = compressionNames[compressionType];
  throw unsupported(
    path,
    'compression_type',
    `No codec for compression type ${name} is available here: ${whoPacks(codecName)}${codecName === 'zstd' ? '; in a browser, useZstd() to read' : ''}`,
    {
      compressionType: name,
    },
  );
}

/**
 * Reads and unpacks the compressed cluster whose packed bytes lie in [offset, offset + length) of `source`; the
 * last sector may end past the file. Gives `into`, by default a buffer of its own. Throws `corrupt`.
 */
export async function unpackCluster(
  source: ByteSource,
  compressionType: number,
  clusterSize: number,
  offset: number,
  length: number,
  into: Uint8Array = new Uint8Array(clusterSize),
): Promise<Uint8Array> {
  const codec = codecFor(source.name, compressionType);
  const there = Math.min(length, source.size - offset);
  if (there <= 0) {
    const message = `Compressed cluster offset ${hex(offset)} past the end of the file`;
    throw corrupt(source.name, 'compressed cluster offset', message, offset, { fileSize: source.size });
  }
  const packed = new Uint8Array(there);
  source.debugEvent?.('read_compressed');
  await source.read(offset, packed);
  await codec.unpack(packed, into);
  return into;
}
