import { textOf } from '../../bytes/byte-text.ts';

/** A name as it is stored, up to the first zero byte: QEMU takes names for strings of C. */
export function storedText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return textOf(end < 0 ? bytes : bytes.subarray(0, end));
}
