import { DiskError } from '../errors.ts';

/** The largest offset or size that a `number` holds exactly: 2^53 - 1 bytes. */
export const maxOffset = Number.MAX_SAFE_INTEGER;

const two32 = 0x1_0000_0000;

/** `value` cut down to a multiple of `unit` (both safe integers, `unit` > 0). */
export function alignDown(value: number, unit: number): number {
  return value - (value % unit);
}

/** `value` brought up to a multiple of `unit`. */
export function alignUp(value: number, unit: number): number {
  const over = value % unit;
  return over === 0 ? value : value + (unit - over);
}

/** How many units of `unit` bytes cover `value` bytes. */
export function unitsOf(value: number, unit: number): number {
  return Math.ceil(value / unit);
}

/** True for an integer in 0 … 2^53 - 1: what an offset or a size may be. */
export function isOffset(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** The big-endian 64-bit number at `at`. Throws `corrupt` naming `field` past 2^53 - 1. */
export function readU64BE(view: DataView, at: number, field?: string): number {
  return joinHalves(view.getUint32(at), view.getUint32(at + 4), field);
}

/** The little-endian 64-bit number at `at`. Throws `corrupt` naming `field` past 2^53 - 1. */
export function readU64LE(view: DataView, at: number, field?: string): number {
  return joinHalves(view.getUint32(at + 4, true), view.getUint32(at, true), field);
}

/** Writes a safe integer as a big-endian 64-bit number. */
export function writeU64BE(view: DataView, at: number, value: number): void {
  checkWritable(value);
  view.setUint32(at, Math.floor(value / two32));
  view.setUint32(at + 4, value % two32);
}

/** Writes a safe integer as a little-endian 64-bit number. */
export function writeU64LE(view: DataView, at: number, value: number): void {
  checkWritable(value);
  view.setUint32(at, value % two32, true);
  view.setUint32(at + 4, Math.floor(value / two32), true);
}

/** Whether this processor keeps the words of typed arrays with their least byte first. */
export const hostIsLittleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/** A DataView over exactly the bytes of `bytes`. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function joinHalves(high: number, low: number, field: string | undefined): number {
  if (high >= 0x20_0000) {
    const value = `0x${((BigInt(high) << 32n) | BigInt(low)).toString(16)}`;
    throw new DiskError('corrupt', `${field ?? 'A 64-bit number'} is ${value}: past 2^53 - 1`, {
      field,
      detail: { value },
    });
  }
  return high * two32 + low;
}

function checkWritable(value: number): void {
  if (!isOffset(value)) throw new DiskError('bad-argument', `${value} is no offset (0 to 2^53 - 1)`);
}
