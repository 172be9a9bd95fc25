/*
 * What stands in the first sector of a block device that is set aside for a seat and holds nothing: before its overlay is written,
 * and when the seat has been removed. So neither a cut nor `down` leaves a device of which nobody knows whose it is.
 */

/** Whose the device is. */
export interface DeviceMark {
  readonly lab: string;
  readonly seat: string;
}

export const markBytes = 512;
const magic = 'cowherd: nothing on this device yet\n';

export function encodeDeviceMark({ lab, seat }: DeviceMark): Uint8Array {
  const sector = new Uint8Array(markBytes);
  sector.set(new TextEncoder().encode(`${magic}${JSON.stringify({ v: 1, lab, seat })}\n`));
  return sector;
}

/** The mark that an image file's or device's first bytes are; undefined: they are none. */
export function parseDeviceMark(head: Uint8Array): DeviceMark | undefined {
  const text = new TextDecoder().decode(head.subarray(0, markBytes));
  if (!text.startsWith(magic)) return undefined;
  try {
    const { v, lab, seat } = JSON.parse(text.slice(magic.length, text.indexOf('\n', magic.length))) as Record<
      string,
      unknown
    >;
    return v === 1 && typeof lab === 'string' && typeof seat === 'string' ? { lab, seat } : undefined;
  } catch {
    return undefined;
  }
}
