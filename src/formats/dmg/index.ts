import { readU64BE, viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { FormatDriver, Layer, OpenContext } from '../driver.ts';
import { type Chunk, ChunkLayer } from '../mapped/chunks.ts';
import { readOnly } from '../read-only.ts';
import { parseBlockTable } from './block-table.ts';

/* Apple's Universal Disk Image Format: a trailer of 512 bytes, big-endian, names a property list with block tables. */

const trailerBytes = 512;
const maxPlistBytes = 16 << 20;

/** Apple's disk image with zero and raw chunks, and those of zlib, bzip2, LZMA, LZFSE and ADC, for reading. */
export const dmg: FormatDriver = {
  name: 'dmg',
  createOptions: [],
  // QEMU goes by the name: what tells lies at the end of the file.
  probe: ({ name }) => (name.length > 4 && name.endsWith('.dmg') ? 2 : 0),
  open: openDmg,
};

async function openDmg(source: ByteSource, context: OpenContext): Promise<Layer> {
  if (context.writable) throw readOnly('dmg', source);
  const refuse = (field: string, message: string): never => {
    throw new DiskError('corrupt', message, { path: source.name, field, detail: { errno: 'EINVAL' } });
  };
  const trailer = new Uint8Array(Math.min(trailerBytes, source.size));
  await source.read(source.size - trailer.length, trailer);
  if (trailer.length < trailerBytes || String.fromCharCode(...trailer.subarray(0, 4)) !== 'koly') {
    refuse('koly', 'Could not locate UDIF trailer in dmg file');
  }
  const view = viewOf(trailer);
  const dataOffset = readU64BE(view, 0x18, 'DataForkOffset');
  const plistOffset = readU64BE(view, 0xd8, 'XMLOffset');
  const plistLength = readU64BE(view, 0xe0, 'XMLLength');
  const sectors = readU64BE(view, 0x1ec, 'SectorCount');
  if (plistLength === 0) {
    throw new DiskError(
      'unsupported',
      'UDIF images with a resource fork instead of a property list are not supported',
      {
        path: source.name,
        field: 'XMLLength',
      },
    );
  }
  if (plistLength > maxPlistBytes) refuse('XMLLength', `The property list has ${plistLength} bytes`);
  if (plistOffset + plistLength > source.size)
    refuse('XMLOffset', 'The property list lies past the end of the file');
  const plist = new Uint8Array(plistLength);
  await source.read(plistOffset, plist);
  const chunks: Chunk[] = [];
  const text = new TextDecoder().decode(plist);
  for (const [, base64] of text.matchAll(/<data>([A-Za-z0-9+/=\s]*)<\/data>/g)) {
    const table = fromBase64(base64);
    if (!table || String.fromCharCode(...table.subarray(0, 4)) !== 'mish') continue;
    chunks.push(...parseBlockTable(table, { path: source.name, dataOffset, fileSize: source.size }));
  }
  chunks.sort((a, b) => a.offset - b.offset);
  for (const [index, { offset }] of chunks.entries()) {
    const before = chunks[index - 1];
    if (before && before.offset + before.length > offset)
      refuse('sector', `Chunks overlap at byte ${offset}`);
  }
  const last = chunks.at(-1);
  const size = Math.max(sectors * 512, last ? last.offset + last.length : 0);
  if (!Number.isSafeInteger(size)) refuse('SectorCount', 'The disk has more than 2^53 - 1 bytes');
  return new ChunkLayer('dmg', source, size, chunks);
}

function fromBase64(text: string): Uint8Array | undefined {
  try {
    return Uint8Array.from(atob(text.replace(/\s+/g, '')), (letter) => letter.charCodeAt(0));
  } catch {
    return undefined;
  }
}
