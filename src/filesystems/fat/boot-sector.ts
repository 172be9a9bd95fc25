import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { type ByteSource, readPart } from '../source.ts';

/** What the boot sector says (Microsoft's FAT specification 1.03, sections 3 and 4). Places in bytes. */
export interface FatLayout {
  /** Bits of a FAT entry. */
  readonly bits: 12 | 16 | 32;
  readonly clusterSize: number;
  /** Data clusters are 2 … clusters + 1. */
  readonly clusters: number;
  readonly fatOffset: number;
  readonly fatSize: number;
  /** The fixed root directory of FAT12 and FAT16. */
  readonly rootOffset: number;
  readonly rootSize: number;
  /** The root directory's first cluster, in FAT32. */
  readonly rootCluster: number;
  /** Where cluster 2 lies. */
  readonly dataOffset: number;
  readonly size: number;
  /** As blkid shows it: `1234-ABCD`. */
  readonly uuid: string;
  readonly label: string;
}

/** Whether a FAT file system begins here. */
export async function isFat(source: ByteSource): Promise<boolean> {
  if (source.size < 512) return false;
  return plausible(await readPart(source, 0, 512, 'boot sector'));
}

function plausible(bytes: Uint8Array): boolean {
  const view = viewOf(bytes);
  const sectorSize = view.getUint16(0x0b, true);
  return (
    view.getUint16(510, true) === 0xaa55 &&
    (bytes[0] === 0xeb || bytes[0] === 0xe9) &&
    [512, 1024, 2048, 4096].includes(sectorSize) &&
    isPowerOfTwo(bytes[0x0d]) &&
    view.getUint16(0x0e, true) > 0 &&
    (bytes[0x10] === 1 || bytes[0x10] === 2) &&
    (bytes[0x15] === 0xf0 || bytes[0x15] >= 0xf8)
  );
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}

/** Reads and checks the boot sector. Throws `corrupt`. */
export async function readFatLayout(source: ByteSource): Promise<FatLayout> {
  const bytes = await readPart(source, 0, 512, 'boot sector');
  const bad = (field: string, what: string) =>
    new DiskError('corrupt', `The FAT boot sector's ${field} ${what}`, { offset: 0, field });
  if (!plausible(bytes)) throw bad('BPB', 'is none');
  const view = viewOf(bytes);
  const sectorSize = view.getUint16(0x0b, true);
  const clusterSize = sectorSize * bytes[0x0d];
  const sectors = view.getUint16(0x13, true) || view.getUint32(0x20, true);
  const fatSectors = view.getUint16(0x16, true) || view.getUint32(0x24, true);
  const fatOffset = view.getUint16(0x0e, true) * sectorSize;
  const fatSize = fatSectors * sectorSize;
  const rootOffset = fatOffset + fatSize * bytes[0x10];
  const rootSize = Math.ceil((view.getUint16(0x11, true) * 32) / sectorSize) * sectorSize;
  const dataOffset = rootOffset + rootSize;
  const size = sectors * sectorSize;
  if (size > source.size) throw bad('BPB_TotSec', `is ${sectors} sectors, in ${source.size} bytes`);
  if (fatSectors === 0 || dataOffset >= size) throw bad('BPB_FATSz', `is ${fatSectors}`);
  const clusters = Math.floor((size - dataOffset) / clusterSize);
  // The count of clusters alone decides which FAT it is.
  const bits = clusters < 4085 ? 12 : clusters < 65_525 ? 16 : 32;
  if (((clusters + 2) * bits) / 8 > fatSize) throw bad('BPB_FATSz', `is too small for ${clusters} clusters`);
  if ((bits === 32) !== (rootSize === 0)) throw bad('BPB_RootEntCnt', `does not go with FAT${bits}`);
  const extended = bits === 32 ? 0x43 : 0x27;
  const serial = view.getUint32(extended, true).toString(16).toUpperCase().padStart(8, '0');
  return {
    bits,
    clusterSize,
    clusters,
    fatOffset,
    fatSize,
    rootOffset,
    rootSize,
    rootCluster: bits === 32 ? view.getUint32(0x2c, true) : 0,
    dataOffset,
    size,
    uuid: `${serial.slice(0, 4)}-${serial.slice(4)}`,
    label: new TextDecoder('latin1').decode(bytes.subarray(extended + 4, extended + 15)).trimEnd(),
  };
}
