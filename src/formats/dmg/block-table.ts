import { readU64BE, viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { Chunk } from '../mapped/chunks.ts';

const headerBytes = 204;
const entryBytes = 40;
/** As many sectors a chunk as QEMU takes: 64 MiB. */
const maxChunkSectors = 131_072;
const maxPackedBytes = 64 << 20;

const ChunkType = {
  zero: 0,
  raw: 1,
  ignored: 2,
  adc: 0x8000_0004,
  zlib: 0x8000_0005,
  bzip2: 0x8000_0006,
  lzfse: 0x8000_0007,
  lzma: 0x8000_0008,
  comment: 0x7fff_fffe,
  end: 0xffff_ffff,
} as const;

const compressions: Readonly<Record<number, NonNullable<Chunk['compression']>>> = {
  [ChunkType.zlib]: 'zlib',
  [ChunkType.bzip2]: 'bzip2',
  // Apple's tools put what they call LZMA into xz files.
  [ChunkType.lzma]: 'xz',
  [ChunkType.adc]: 'adc',
  [ChunkType.lzfse]: 'lzfse',
};

/** The chunks of a block table (`mish`). Pure. Throws `corrupt`, and `unsupported` for an unknown kind. */
export function parseBlockTable(
  bytes: Uint8Array,
  where: { readonly path: string; readonly dataOffset: number; readonly fileSize: number },
): Chunk[] {
  const { path, dataOffset, fileSize } = where;
  const refuse = (field: string, message: string): never => {
    throw new DiskError('corrupt', message, { path, field, detail: { errno: 'EINVAL' } });
  };
  if (bytes.length < headerBytes) refuse('mish', 'A block table is too short');
  const view = viewOf(bytes);
  const firstSector = readU64BE(view, 8, 'SectorNumber');
  const tableOffset = readU64BE(view, 24, 'DataOffset');
  const count = view.getUint32(200);
  if (headerBytes + count * entryBytes > bytes.length)
    refuse('NumberOfBlockChunks', 'A block table is cut short');
  const chunks: Chunk[] = [];
  for (let index = 0; index < count; index++) {
    const entry = headerBytes + index * entryBytes;
    const type = view.getUint32(entry);
    if (type === ChunkType.comment || type === ChunkType.end) continue;
    const sector = firstSector + readU64BE(view, entry + 8, 'SectorNumber');
    const sectors = readU64BE(view, entry + 16, 'SectorCount');
    const at = dataOffset + tableOffset + readU64BE(view, entry + 24, 'CompressedOffset');
    const packedLength = readU64BE(view, entry + 32, 'CompressedLength');
    const offset = sector * 512;
    const length = sectors * 512;
    if (!Number.isSafeInteger(offset + length)) refuse('SectorNumber', 'A chunk lies past 2^53 - 1 bytes');
    if (sectors === 0) continue;
    if (type === ChunkType.zero || type === ChunkType.ignored) {
      chunks.push({ offset, length, kind: 'zero', at: 0, packedLength: 0 });
      continue;
    }
    const compression = compressions[type];
    if (type !== ChunkType.raw && compression === undefined) {
      throw new DiskError('unsupported', `Chunks of type 0x${type.toString(16)} are not known`, {
        path,
        field: 'EntryType',
      });
    }
    if (at + packedLength > fileSize)
      refuse('CompressedOffset', `Chunk ${index} lies past the end of the file`);
    if (type === ChunkType.raw) {
      if (packedLength < length) refuse('CompressedLength', `Raw chunk ${index} is shorter than its sectors`);
      chunks.push({ offset, length, kind: 'data', at, packedLength });
      continue;
    }
    if (packedLength > maxPackedBytes) refuse('CompressedLength', `Chunk ${index} has ${packedLength} bytes`);
    if (sectors > maxChunkSectors) refuse('SectorCount', `Chunk ${index} has ${sectors} sectors`);
    chunks.push({ offset, length, kind: 'packed', at, packedLength, compression });
  }
  return chunks;
}
