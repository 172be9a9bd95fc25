import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

const pieceBytes = 64 * 1024;
const pieces = 256;

/**
 * SHA-256, in hexadecimal, of a whole file of up to 16 MiB, or of 256 pieces of a larger one, spread over it from its first byte to its last.
 * Takes some 50 ms, whatever the size: what differs between two samples has changed; what changed need not differ.
 */
export function sampleOf(path: string): string {
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    const hash = createHash('sha256');
    const buffer = new Uint8Array(pieceBytes);
    const step = Math.max(pieceBytes, (size - pieceBytes) / (pieces - 1));
    for (let i = 0; i < pieces && i * step < size; i++) {
      const got = readSync(fd, buffer, 0, pieceBytes, Math.floor(i * step));
      hash.update(buffer.subarray(0, got));
    }
    return hash.digest('hex');
  } finally {
    closeSync(fd);
  }
}
