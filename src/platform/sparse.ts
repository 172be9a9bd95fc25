import type { OpenFile } from './file-io.ts';
import { writeWhole } from './file-io.ts';
import { kernel, libc } from './libc.ts';

export interface FoundExtent {
  readonly offset: number;
  readonly length: number;
  readonly data: boolean;
}

export function findExtent(file: OpenFile, at: number, size: number): FoundExtent {
  const system = libc();
  const all = { offset: at, length: size - at, data: true };
  if (!system) return all;
  const data = system.lseek(file.fd, at, kernel.SEEK_DATA);
  if (data === -6) return { offset: at, length: size - at, data: false };
  if (data < 0) return all;
  if (data > at) return { offset: at, length: Math.min(data, size) - at, data: false };
  const hole = system.lseek(file.fd, at, kernel.SEEK_HOLE);
  return hole <= at ? all : { offset: at, length: Math.min(hole, size) - at, data: true };
}

export async function zeroRange(
  file: OpenFile,
  at: number,
  length: number,
  _size: number,
  _punch: boolean,
): Promise<void> {
  const zeroes = new Uint8Array(Math.min(length, 1024 * 1024));
  for (let done = 0; done < length; ) {
    const count = Math.min(zeroes.length, length - done);
    writeWhole(file, at + done, zeroes.subarray(0, count));
    done += count;
  }
}
