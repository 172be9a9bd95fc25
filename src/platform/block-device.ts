import { readFileSync } from 'node:fs';
import { DiskError } from '../errors.ts';
import { errnoName, systemError } from './errno.ts';
import { kernel, libc } from './libc.ts';

/** Bytes of an open block device. `device` is `rdev` of its stat. */
export function blockDeviceSize(fd: number, device: number, path: string): number {
  const system = libc();
  let size: number;
  if (system) {
    size = system.lseek(fd, 0, kernel.SEEK_END);
    if (size < 0) throw systemError(errnoName(size), 'find the size of', path);
  } else {
    // sysfs counts in 512-byte sectors whatever the device's own are.
    size = Number(attribute(device, 'size')) * 512;
  }
  if (!Number.isSafeInteger(size)) {
    throw new DiskError('unsupported', `The size of '${path}' cannot be told`, { path });
  }
  return size;
}

/** Whether the device refuses writes though it lets itself be opened for them (`blockdev --setro`). */
export function isDeviceReadOnly(fd: number, device: number): boolean {
  const system = libc();
  if (system) {
    const answer = new Uint8Array(4);
    return system.ioctl(fd, kernel.BLKROGET, answer) >= 0 && answer[0] !== 0;
  }
  return attribute(device, 'ro') === '1';
}

/** A device's attribute in sysfs, or '' where there is none. */
function attribute(device: number, name: string): string {
  // glibc's layout of dev_t, which stat hands out as one number of up to 64 bits.
  const major = Math.floor(device / 0x100) % 0x1000;
  const minor = (device % 0x100) + (Math.floor(device / 0x10_0000) % 0x1000) * 0x100;
  try {
    return readFileSync(`/sys/dev/block/${major}:${minor}/${name}`, 'utf8').trim();
  } catch {
    return '';
  }
}
