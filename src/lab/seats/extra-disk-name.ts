/*
 * What a seat's extra disks are called, in a pool and in a folder of a host. No seat's name has a `+`, so that no seat's own disk is ever
 * called so.
 */

export function extraDiskName(seat: string, disk: string): string {
  return `${seat}+${disk}.qcow2`;
}

/** The seat that a file of this name is an extra disk of, by the name alone; undefined: it is the name of none. */
export function seatOfExtraDisk(file: string): string | undefined {
  return /^([^.+][^+]*)\+.+\.qcow2$/.exec(file)?.[1];
}

/** The disk's own name in one that `seatOfExtraDisk` knows. */
export function extraDiskOf(file: string): string {
  return file.slice(file.indexOf('+') + 1, -'.qcow2'.length);
}
