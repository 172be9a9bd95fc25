import { guidText, parseGuid, swapGuid } from '../../bytes/guid.ts';

/*
 * Fixed places and names of the VHDX format (Microsoft Open Specification MS-VHDX, version 1.00). Little-endian.
 */

export const KiB = 1024;
export const MiB = 1024 * KiB;

export const headerOffsets = [64 * KiB, 128 * KiB] as const;
export const headerBytes = 4 * KiB;
export const regionTableOffsets = [192 * KiB, 256 * KiB] as const;
export const regionTableBytes = 64 * KiB;
export const metadataTableBytes = 64 * KiB;
/** Everything in the file begins and grows by this. */
export const alignment = MiB;
/** The unit of the log, and of what it changes. */
export const logSectorBytes = 4 * KiB;

export const minBlockSize = MiB;
export const maxBlockSize = 256 * MiB;
export const maxDiskSize = 64 * 1024 ** 4;
/** Sectors whose bits fill one sector bitmap block of 1 MiB. */
export const sectorsPerChunk = 2 ** 23;

export const regionIds = {
  bat: '2dc27766-f623-4200-9d64-115e9bfd4a08',
  metadata: '8b7ca206-4790-4b9a-b8fe-575f050f886e',
} as const;

export const metadataIds = {
  fileParameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  diskSize: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  page83: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logicalSectorSize: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physicalSectorSize: 'cda348c7-445d-4471-9cc9-e9885251c556',
  parentLocator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
} as const;

/** The kind of a parent locator: another VHDX. */
export const vhdxLocator = 'b04aefb7-d19e-4a81-b789-25b8e9445913';

/** States of a payload block ("Payload Block States"). */
export const BlockState = {
  notPresent: 0,
  undefined: 1,
  zero: 2,
  /** Of a draft of the format; QEMU reads it as zeroes. */
  oldUnmapped: 3,
  unmapped: 5,
  fullyPresent: 6,
  partiallyPresent: 7,
} as const;

/** States of a sector bitmap block. */
export const bitmapPresent = 6;

/** The identifier at `at` as text. */
export function guidAt(bytes: Uint8Array, at: number): string {
  return guidText(swapGuid(bytes.subarray(at, at + 16)));
}

/** The 16 bytes of an identifier as the file has them. */
export function guidBytes(text: string): Uint8Array {
  const bytes = parseGuid(text);
  if (!bytes) throw new TypeError(`${text} is no GUID`);
  return swapGuid(bytes);
}

export const zeroGuid = '00000000-0000-0000-0000-000000000000';
