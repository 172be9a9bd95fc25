import { viewOf } from '../../bytes/numbers.ts';
import { cowdMagic, sectorBytes } from './constants.ts';
import { corrupt } from './errors.ts';

/** The header of an ESX copy-on-write extent (`COWD`, "ESX Server Sparse Extents"), in bytes. */
export interface CowdHeader {
  /** Guest bytes of the extent. */
  readonly capacity: number;
  readonly grainBytes: number;
  readonly directoryAt: number;
  /** Entries of the grain directory. */
  readonly directory: number;
  /** Where the next grain or table goes. */
  readonly freeAt: number;
}

/** Entries of every grain table. */
export const cowdEntries = 4096;
/** Where the header names the next free sector. */
export const cowdFreeField = 28;

const maxGrainBytes = 2 ** 30;
const maxDirectory = 32 * 1024 * 1024;

export function isCowd(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && viewOf(bytes).getUint32(0, true) === cowdMagic;
}

/** Throws `corrupt`. */
export function parseCowdHeader(bytes: Uint8Array, path: string): CowdHeader {
  if (bytes.length < 32 || !isCowd(bytes)) throw corrupt(path, 'magic', 'Image not in VMDK format');
  const view = viewOf(bytes);
  const grainBytes = view.getUint32(16, true) * sectorBytes;
  if (grainBytes === 0 || grainBytes > maxGrainBytes) {
    throw corrupt(path, 'grainSize', 'Invalid granularity, image may be corrupt', { errno: 'EFBIG' });
  }
  const capacity = view.getUint32(12, true) * sectorBytes;
  const directory = view.getUint32(24, true);
  if (directory > maxDirectory) throw corrupt(path, 'numGDEntries', 'L1 size too big', { errno: 'EFBIG' });
  if (directory * cowdEntries * grainBytes < capacity) {
    throw corrupt(path, 'numGDEntries', 'The grain directory is shorter than the disk');
  }
  return {
    capacity,
    grainBytes,
    directoryAt: view.getUint32(20, true) * sectorBytes,
    directory,
    freeAt: view.getUint32(cowdFreeField, true) * sectorBytes,
  };
}
