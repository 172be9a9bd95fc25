import { crc32 } from '../bytes/crc32.ts';
import { guidText, swapGuid } from '../bytes/guid.ts';
import { readU64LE, viewOf } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import { type ByteSource, errorAbout, readPart } from './source.ts';

export interface Partition {
  /** As Linux counts: 1 to 4 are in the MBR itself, 5 and up are logical. */
  readonly number: number;
  /** Bytes within the disk. */
  readonly offset: number;
  readonly length: number;
  /** As sfdisk shows it: `83`, or a GUID in upper case. */
  readonly type: string;
  /** GPT's own name; '' where it has none. */
  readonly name: string;
  /** What Linux calls its PARTUUID, in lower case; '' for one of an MBR without a disk signature. */
  readonly uuid: string;
}

export interface PartitionTable {
  readonly kind: 'gpt' | 'mbr' | 'none';
  readonly partitions: readonly Partition[];
}

const sector = 512;

/** Entries of a GPT that are read: UEFI asks for 128. */
const mostEntries = 1024;

/** Logical partitions that are followed. */
const mostLogical = 256;

/**
 * The partitions of a disk, by UEFI 2.10, section 5 (GPT of 512-byte sectors) or by its MBR. `none`: it has neither. A GPT whose first
 * header is damaged is read from its last sector. Throws `corrupt` where an entry lies past the end.
 */
export async function readPartitions(disk: ByteSource): Promise<PartitionTable> {
  try {
    return await readTable(disk);
  } catch (error) {
    throw errorAbout(disk, error);
  }
}

async function readTable(disk: ByteSource): Promise<PartitionTable> {
  if (disk.size < sector) return { kind: 'none', partitions: [] };
  const mbr = await readPart(disk, 0, sector, 'MBR');
  const view = viewOf(mbr);
  if (view.getUint16(510, true) !== 0xaa55) return { kind: 'none', partitions: [] };
  const slots = [0, 1, 2, 3].map((slot) => mbrEntry(view, 446 + slot * 16));
  if (slots.some(({ type }) => type === 0xee)) {
    const partitions = await readGpt(disk);
    if (partitions) return { kind: 'gpt', partitions };
  }
  // A boot sector of a file system carries the mark too: an MBR says 0x00 or 0x80 in its status bytes.
  if (slots.some(({ status }) => status !== 0 && status !== 0x80)) return { kind: 'none', partitions: [] };
  const found: Partition[] = [];
  for (const [slot, entry] of slots.entries()) {
    if (entry.type === 0 || entry.sectors === 0) continue;
    found.push(partitionOf(disk, slot + 1, entry.type, entry.start, entry.sectors));
  }
  const extended = slots.find(({ type }) => isExtended(type));
  if (extended) found.push(...(await readLogical(disk, extended.start)));
  const signature = view.getUint32(440, true);
  const partitions = found.map((one) => ({ ...one, uuid: mbrUuid(signature, one.number) }));
  return { kind: partitions.length > 0 ? 'mbr' : 'none', partitions };
}

/** As the kernel makes it: the disk's signature and the number, in hexadecimal. */
function mbrUuid(signature: number, number: number): string {
  const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0');
  return signature === 0 ? '' : `${hex(signature, 8)}-${hex(number, 2)}`;
}

interface MbrEntry {
  readonly status: number;
  readonly type: number;
  /** In sectors. */
  readonly start: number;
  readonly sectors: number;
}

function mbrEntry(view: DataView, at: number): MbrEntry {
  return {
    status: view.getUint8(at),
    type: view.getUint8(at + 4),
    start: view.getUint32(at + 8, true),
    sectors: view.getUint32(at + 12, true),
  };
}

function isExtended(type: number): boolean {
  return type === 0x05 || type === 0x0f || type === 0x85;
}

function partitionOf(
  disk: ByteSource,
  number: number,
  type: number,
  start: number,
  sectors: number,
): Partition {
  // The extended partition may claim more than there is: only what lies in it counts.
  const length = isExtended(type)
    ? Math.min(sectors * sector, Math.max(0, disk.size - start * sector))
    : sectors * sector;
  return checked(disk, {
    number,
    offset: start * sector,
    length,
    type: type.toString(16),
    name: '',
    uuid: '',
  });
}

function checked(disk: ByteSource, partition: Partition): Partition {
  const { number, offset, length } = partition;
  if (offset + length <= disk.size && length >= 0) return partition;
  throw new DiskError('corrupt', `Partition ${number} lies past the end of the disk (${disk.size} bytes)`, {
    offset,
    field: 'partition',
  });
}

/** The chain of extended boot records: each names its own partition and the next record. */
async function readLogical(disk: ByteSource, base: number): Promise<Partition[]> {
  const found: Partition[] = [];
  const seen = new Set<number>();
  let next = 0;
  for (let number = 5; found.length < mostLogical; number++) {
    const at = base + next;
    if (seen.has(at)) {
      throw new DiskError('corrupt', 'The extended boot records lead in a circle', {
        offset: at * sector,
        field: 'extended boot record',
      });
    }
    seen.add(at);
    const view = viewOf(await readPart(disk, at * sector, sector, 'extended boot record'));
    if (view.getUint16(510, true) !== 0xaa55) return found;
    const own = mbrEntry(view, 446);
    const link = mbrEntry(view, 462);
    if (own.type !== 0 && own.sectors !== 0) {
      found.push(partitionOf(disk, number, own.type, at + own.start, own.sectors));
    }
    if (!isExtended(link.type) || link.start === 0) return found;
    next = link.start;
  }
  return found;
}

/** The GPT at the second sector or at the last; undefined where both are damaged. */
async function readGpt(disk: ByteSource): Promise<Partition[] | undefined> {
  for (const at of [sector, Math.floor(disk.size / sector) * sector - sector]) {
    if (at < sector || at + sector > disk.size) continue;
    const header = await readPart(disk, at, sector, 'GPT header');
    const entries = await gptEntries(disk, header);
    if (entries) return gptPartitions(disk, entries);
  }
  return undefined;
}

interface GptEntries {
  readonly bytes: Uint8Array;
  readonly entrySize: number;
}

async function gptEntries(disk: ByteSource, header: Uint8Array): Promise<GptEntries | undefined> {
  const view = viewOf(header);
  if (new TextDecoder('latin1').decode(header.subarray(0, 8)) !== 'EFI PART') return undefined;
  const headerSize = view.getUint32(12, true);
  if (headerSize < 92 || headerSize > sector) return undefined;
  const sum = view.getUint32(16, true);
  const plain = header.slice(0, headerSize);
  plain.fill(0, 16, 20);
  if (crc32(plain) !== sum) return undefined;
  const count = view.getUint32(80, true);
  const entrySize = view.getUint32(84, true);
  if (count > mostEntries || entrySize < 128 || entrySize > 4096) {
    throw new DiskError('unsupported', `A GPT of ${count} entries of ${entrySize} bytes`, {
      field: 'entries',
    });
  }
  const bytes = await readPart(
    disk,
    readU64LE(view, 72, 'GPT entries') * sector,
    count * entrySize,
    'GPT entries',
  );
  return crc32(bytes) === view.getUint32(88, true) ? { bytes, entrySize } : undefined;
}

function gptPartitions(disk: ByteSource, { bytes, entrySize }: GptEntries): Partition[] {
  const view = viewOf(bytes);
  const found: Partition[] = [];
  for (let at = 0, number = 1; at + 128 <= bytes.length; at += entrySize, number++) {
    const type = bytes.subarray(at, at + 16);
    if (type.every((byte) => byte === 0)) continue;
    const first = readU64LE(view, at + 32, 'first LBA');
    const last = readU64LE(view, at + 40, 'last LBA');
    const name = new TextDecoder('utf-16le').decode(bytes.subarray(at + 56, at + 128));
    found.push(
      checked(disk, {
        number,
        offset: first * sector,
        length: (last - first + 1) * sector,
        type: guidText(swapGuid(type)).toUpperCase(),
        name: name.split('\0')[0],
        uuid: guidText(swapGuid(bytes.subarray(at + 16, at + 32))),
      }),
    );
  }
  return found;
}
