/*
 * Sector bitmaps of differencing disks: a bit a sector, set where this image has the sector itself and clear where its
 * parent has it. VHD counts from the highest bit of a byte, VHDX from the lowest.
 */

export type BitOrder = 'msb-first' | 'lsb-first';

/** Whether the bit of `sector` is set. */
export function hasSector(bits: Uint8Array, sector: number, order: BitOrder): boolean {
  return (bits[sector >>> 3] & maskOf(sector, order)) !== 0;
}

/** How many sectors from `sector` on, at most up to `end`, have a bit like it. */
export function sectorRun(bits: Uint8Array, sector: number, end: number, order: BitOrder): number {
  const set = hasSector(bits, sector, order);
  const whole = set ? 0xff : 0;
  let at = sector + 1;
  while (at < end) {
    if ((at & 7) === 0 && at + 8 <= end && bits[at >>> 3] === whole) at += 8;
    else if (hasSector(bits, at, order) === set) at++;
    else break;
  }
  return at - sector;
}

/** Sets the bits of sectors [from, end). */
export function setSectors(bits: Uint8Array, from: number, end: number, order: BitOrder): void {
  let at = from;
  while (at < end) {
    if ((at & 7) === 0 && at + 8 <= end) {
      bits[at >>> 3] = 0xff;
      at += 8;
    } else {
      bits[at >>> 3] |= maskOf(at, order);
      at++;
    }
  }
}

function maskOf(sector: number, order: BitOrder): number {
  return order === 'msb-first' ? 0x80 >>> (sector & 7) : 1 << (sector & 7);
}
