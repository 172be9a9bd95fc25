import { crc32Register } from '../../bytes/crc32.ts';
import { readU64LE, viewOf } from '../../bytes/numbers.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import type { ByteRange } from '../file-system.ts';
import { type ByteSource, readPart } from '../source.ts';
import { parseConfig, type Section } from './config-text.ts';

/*
 * Where LVM2 keeps what it knows on a disk or partition (lib/format_text of its sources): a label in one of the first four sectors, which
 * leads to a header with the areas of metadata; each has a header of a sector and then a ring, in which the valid text lies.
 */

/** What an LVM label says. */
export interface PhysicalVolume {
  /** 32 characters, without dashes. */
  readonly uuid: string;
  /** The newest metadata that is sound; undefined: it belongs to no volume group (yet). */
  readonly metadata?: Section;
  /** Where metadata is kept, in bytes. */
  readonly areas: readonly ByteRange[];
  /** One of the areas is not sound, in words: what the others say may be older. */
  readonly damage?: string;
}

const sectorBytes = 512;
const labelSectors = 4;
const labelBytes = 32;
const uuidBytes = 32;
/** Of each kind. LVM writes two at most. */
const mostAreas = 2;
/** The default area is a mebibyte; groups of thousands of volumes have more. */
const mostTextBytes = 2 * 1024 * 1024;
const areaMagic = ' LVM2 x[5A%r0N*>';
const ignoredArea = 1;

/** What LVM's checksums begin with (they do not end inverted). */
const crcStart = 0xf597a6cf;

/** Undefined: the volume carries no sound label of LVM's. Throws `corrupt` where what the label leads to is not sound, `unsupported`. */
export async function readPhysicalVolume(volume: ByteSource): Promise<PhysicalVolume | undefined> {
  for (let sector = 0; sector < labelSectors; sector++) {
    const at = sector * sectorBytes;
    if (at + sectorBytes > volume.size) return undefined;
    const bytes = await readPart(volume, at, sectorBytes, 'LVM label');
    if (isLabel(bytes, sector)) return volumeOf(volume, bytes, at);
  }
  return undefined;
}

function isLabel(bytes: Uint8Array, sector: number): boolean {
  const view = viewOf(bytes);
  return (
    latin1(bytes.subarray(0, 8)) === 'LABELONE' &&
    latin1(bytes.subarray(24, 32)) === 'LVM2 001' &&
    view.getUint32(8, true) === sector &&
    view.getUint32(12, true) === 0 &&
    crc32Register(crcStart, bytes.subarray(20)) === view.getUint32(16, true)
  );
}

async function volumeOf(volume: ByteSource, label: Uint8Array, at: number): Promise<PhysicalVolume> {
  const view = viewOf(label);
  let next = view.getUint32(20, true);
  if (next < labelBytes || next + uuidBytes + 8 > label.length) {
    throw new DiskError('corrupt', `LVM's header lies at ${next} of its sector`, {
      offset: at,
      field: 'offset',
    });
  }
  const uuid = latin1(label.subarray(next, next + uuidBytes));
  // After the size of the device.
  next += uuidBytes + 8;
  const places = (field: string) => {
    const found: ByteRange[] = [];
    for (;;) {
      if (next + 16 > label.length || found.length >= mostAreas + 1) {
        throw new DiskError('corrupt', `LVM's list of ${field} has no end`, { offset: at, field });
      }
      const offset = readU64LE(view, next, field);
      const length = readU64LE(view, next + 8, field);
      next += 16;
      if (offset === 0) return found;
      found.push({ offset, length });
    }
  };
  places('data areas');
  let newest: { readonly metadata: Section; readonly seqno: number } | undefined;
  let damage: DiskError | undefined;
  const areas = places('metadata areas');
  for (const area of areas) {
    try {
      const metadata = await readArea(volume, area);
      if (!metadata) continue;
      const seqno = seqnoOf(metadata);
      if (!newest || seqno > newest.seqno) newest = { metadata, seqno };
    } catch (error) {
      if (!isDiskError(error, 'corrupt')) throw error;
      damage = error;
    }
  }
  if (damage && !newest) throw damage;
  return { uuid, metadata: newest?.metadata, areas, damage: damage?.message };
}

/** The text that an area holds; undefined: it holds none, or is not to be read. */
async function readArea(volume: ByteSource, area: ByteRange): Promise<Section | undefined> {
  const { offset, length } = area;
  const field = 'metadata area';
  const header = await readPart(volume, offset, sectorBytes, field);
  const view = viewOf(header);
  const broken = (what: string) => new DiskError('corrupt', `LVM's metadata area ${what}`, { offset, field });
  if (crc32Register(crcStart, header.subarray(4)) !== view.getUint32(0, true))
    throw broken('has a wrong checksum');
  if (latin1(header.subarray(4, 20)) !== areaMagic || view.getUint32(20, true) !== 1) {
    throw new DiskError('unsupported', 'LVM metadata of another version', { offset, field });
  }
  if (readU64LE(view, 24, field) !== offset || readU64LE(view, 32, field) !== length)
    throw broken('says that it lies elsewhere');
  const textOffset = readU64LE(view, 40, field);
  const textBytes = readU64LE(view, 48, field);
  if (textOffset === 0 || textBytes === 0 || (view.getUint32(60, true) & ignoredArea) !== 0) return undefined;
  if (textOffset < sectorBytes || textOffset >= length || textBytes > length - sectorBytes)
    throw broken('has its text outside');
  if (textBytes > mostTextBytes) {
    throw new DiskError('unsupported', `LVM metadata of ${textBytes} bytes`, { offset, field });
  }
  // It goes on behind the header where the area ends.
  const first = Math.min(textBytes, length - textOffset);
  const text = new Uint8Array(textBytes);
  text.set(await readPart(volume, offset + textOffset, first, field));
  text.set(await readPart(volume, offset + sectorBytes, textBytes - first, field), first);
  if (crc32Register(crcStart, text) !== view.getUint32(56, true))
    throw broken('has a text with a wrong checksum');
  const end = text.indexOf(0);
  return parseConfig(new TextDecoder().decode(end < 0 ? text : text.subarray(0, end)));
}

function seqnoOf(metadata: Section): number {
  for (const group of metadata.values()) {
    const seqno = group instanceof Map ? group.get('seqno') : undefined;
    if (typeof seqno === 'number') return seqno;
  }
  return 0;
}

function latin1(bytes: Uint8Array): string {
  return new TextDecoder('latin1').decode(bytes);
}
