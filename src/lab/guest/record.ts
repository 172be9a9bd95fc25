import { DiskError } from '../../errors.ts';
import { seatProgram } from './program.ts';

/** What the demo guest keeps on its disk. */
export interface SeatRecord {
  /** Printable ASCII without blanks, at most 63 characters; empty in a master. */
  readonly seat: string;
  readonly master: string;
  /** How often the guest has booted from this disk, counted by itself. */
  readonly boots: number;
}

export const recordBytes = 512;
const magic = 'COWHERD!';

/** Guest byte at which the record begins. */
export function recordOffset(): number {
  return constant('RECORD_LBA') * recordBytes;
}

/** The record's sector; its layout is described at the head of the listing. Throws `bad-argument`. */
export function encodeRecord(record: SeatRecord): Uint8Array {
  if (!Number.isInteger(record.boots) || record.boots < 0 || record.boots > 0xffffffff) {
    throw new DiskError('bad-argument', `${record.boots} is no count of boots`, { field: 'boots' });
  }
  const sector = new Uint8Array(recordBytes);
  const view = new DataView(sector.buffer);
  for (let i = 0; i < magic.length; i++) sector[i] = magic.charCodeAt(i);
  view.setUint16(magic.length, constant('RECORD_VERSION'), true);
  view.setUint32(constant('RECORD_BOOTS'), record.boots, true);
  putName(sector, constant('RECORD_SEAT'), record.seat, 'seat');
  putName(sector, constant('RECORD_MASTER'), record.master, 'master');
  return sector;
}

/** Reads a record's sector; undefined when it is not one of a version that we know. */
export function parseRecord(sector: Uint8Array): SeatRecord | undefined {
  if (sector.length !== recordBytes) return undefined;
  const view = new DataView(sector.buffer, sector.byteOffset, sector.byteLength);
  for (let i = 0; i < magic.length; i++) if (sector[i] !== magic.charCodeAt(i)) return undefined;
  if (view.getUint16(magic.length, true) !== constant('RECORD_VERSION')) return undefined;
  const seat = takeName(sector, constant('RECORD_SEAT'));
  const master = takeName(sector, constant('RECORD_MASTER'));
  if (seat === undefined || master === undefined) return undefined;
  return { seat, master, boots: view.getUint32(constant('RECORD_BOOTS'), true) };
}

function constant(name: string): number {
  return seatProgram().symbols.get(name)!;
}

function putName(sector: Uint8Array, at: number, name: string, field: string): void {
  const limit = constant('NAME_BYTES') - 1;
  if (name.length > limit || !/^[!-~]*$/.test(name)) {
    throw new DiskError(
      'bad-argument',
      `'${name}' cannot be written into the demo guest's record: at most ${limit} printable ASCII characters, no blanks`,
      { field },
    );
  }
  for (let i = 0; i < name.length; i++) sector[at + i] = name.charCodeAt(i);
}

function takeName(sector: Uint8Array, at: number): string | undefined {
  const field = sector.subarray(at, at + constant('NAME_BYTES'));
  const end = field.indexOf(0);
  if (end < 0) return undefined;
  const name = String.fromCharCode(...field.subarray(0, end));
  return /^[!-~]*$/.test(name) ? name : undefined;
}
