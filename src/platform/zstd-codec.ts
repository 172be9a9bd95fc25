import { type Codec, registerCodec } from '../codecs/codec.ts';
import { decodeFrame, unpackFrames, type ZstdDecoder } from '../codecs/zstd.ts';
import { DiskError } from '../errors.ts';
import { libzstd } from './libzstd.ts';

/** In WebAssembly: zstd's own default. */
const wasmLevel = 3;

/** zstd by the system's library where it can be had (several units at a time use several cores), else WebAssembly. */
class ZstdCodec implements Codec {
  readonly name = 'zstd';

  unpack(packed: Uint8Array, into: Uint8Array): Promise<void> {
    return unpackFrames(packed, into, decompress);
  }

  async pack(bytes: Uint8Array, limit: number): Promise<Uint8Array | undefined> {
    const library = libzstd();
    if (!library) {
      const { compress } = await wasmEncoder();
      const packed = compress(bytes, wasmLevel);
      return packed.length <= limit ? packed : undefined;
    }
    return library.compress(bytes, limit);
  }
}

async function decompress(frame: Uint8Array, into: Uint8Array): Promise<number> {
  const library = libzstd();
  if (library) return library.decompress(frame, into);
  return decodeFrame(await wasmDecoder(), frame, into);
}

let decoder: Promise<ZstdDecoder> | undefined;

function wasmDecoder(): Promise<ZstdDecoder> {
  decoder ??= import('zstddec').then(async ({ ZSTDDecoder }) => {
    const made = new ZSTDDecoder();
    await made.init();
    return made;
  });
  return decoder;
}

type Encoder = Pick<typeof import('@bokuweb/zstd-wasm'), 'compress'>;
let encoder: Promise<Encoder> | undefined;

function wasmEncoder(): Promise<Encoder> {
  encoder ??= loadEncoder();
  return encoder;
}

async function loadEncoder(): Promise<Encoder> {
  try {
    const module = await import('@bokuweb/zstd-wasm');
    await module.init();
    return module;
  } catch (cause) {
    // A bundle has the package's code, but not the file that it reads.
    const own = await nodesOwn();
    if (own) return own;
    const message =
      'Compressing with zstd needs libzstd.so.1 and koffi, the package @bokuweb/zstd-wasm (which reads a file beside itself: a bundler must be ' +
      'told to leave it out), or Node 22.15';
    throw new DiskError('unsupported', message, { field: 'compression_type', cause });
  }
}

/** Node's own zstd: from 22.15 on. */
async function nodesOwn(): Promise<Encoder | undefined> {
  const zlib = (await import('node:zlib')) as unknown as Partial<NodesZstd>;
  const { zstdCompressSync: compress, constants } = zlib;
  if (!compress) return undefined;
  const params = { [constants!.ZSTD_c_compressionLevel]: wasmLevel };
  return { compress: (bytes) => compress(bytes, { params }) };
}

interface NodesZstd {
  zstdCompressSync(bytes: Uint8Array, options: { params: Record<number, number> }): Uint8Array;
  constants: { readonly ZSTD_c_compressionLevel: number };
}

/** Makes zstd known where Node runs; its libraries are loaded at the first use. */
export function registerZstdCodec(): void {
  registerCodec(new ZstdCodec());
}
