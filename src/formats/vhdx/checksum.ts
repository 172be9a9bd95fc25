import { crc32c } from '../../bytes/crc32c.ts';
import { viewOf } from '../../bytes/numbers.ts';

/** Where a header, region table or log entry has its CRC-32C, which is taken over the whole with this field zero. */
const checksumAt = 4;
const zeroField = new Uint8Array(4);

function checksumOf(bytes: Uint8Array): number {
  const before = crc32c(zeroField, crc32c(bytes.subarray(0, checksumAt)));
  return crc32c(bytes.subarray(checksumAt + 4), before);
}

export function checksumHolds(bytes: Uint8Array): boolean {
  return viewOf(bytes).getUint32(checksumAt, true) === checksumOf(bytes);
}

export function putChecksum(bytes: Uint8Array): void {
  viewOf(bytes).setUint32(checksumAt, checksumOf(bytes), true);
}

export function hasSignature(bytes: Uint8Array, signature: string): boolean {
  for (let index = 0; index < signature.length; index++) {
    if (bytes[index] !== signature.charCodeAt(index)) return false;
  }
  return true;
}

export function putSignature(bytes: Uint8Array, signature: string): void {
  for (let index = 0; index < signature.length; index++) bytes[index] = signature.charCodeAt(index);
}
