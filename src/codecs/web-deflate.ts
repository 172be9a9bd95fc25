import { DirectCodec } from './direct-codec.ts';

/** Deflate that is unpacked at once, and packed by the web's CompressionStream where the runtime has one. */
export class WebDeflate extends DirectCodec {
  readonly pack?: (bytes: Uint8Array, limit: number) => Promise<Uint8Array | undefined>;

  constructor(
    name: 'deflate' | 'zlib',
    format: 'deflate-raw' | 'deflate',
    unpack: (packed: Uint8Array, into: Uint8Array) => void,
  ) {
    super(name, unpack);
    if (hasStream(format)) this.pack = (bytes, limit) => pack(format, bytes, limit);
  }
}

/** Browsers have had raw deflate later than the rest. */
function hasStream(format: CompressionFormat): boolean {
  try {
    return new CompressionStream(format).readable !== undefined;
  } catch {
    return false;
  }
}

async function pack(
  format: CompressionFormat,
  bytes: Uint8Array,
  limit: number,
): Promise<Uint8Array | undefined> {
  // A copy: memory that is shared, or may be resized, is refused.
  const stream = new Blob([new Uint8Array(bytes)]).stream().pipeThrough(new CompressionStream(format));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  return packed.length <= limit ? packed : undefined;
}
