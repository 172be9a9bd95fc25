import type { ApplianceDisk, ApplianceFile } from '../../appliance/appliance.ts';
import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { assertWholeSource } from '../disks/whole-source.ts';

const mebibyte = 1024 * 1024;
const gibibyte = 1024 * mebibyte;
/** More than a cylinder of the geometry that a VHD's size is rounded to: 16 heads, 255 sectors. */
const cylinder = 2 * mebibyte;

interface Reporting {
  readonly onWarning: (message: string) => void;
}

/** Throws `corrupt` for a file of another size than the descriptor says. `path`: of the package. */
export function assertFileSize(
  { href, size: promised, gzip }: ApplianceFile,
  size: number,
  path: string,
  { onWarning }: Reporting,
): void {
  // Who does not know it writes 0.
  if (promised === undefined || promised === 0 || promised === size) return;
  const what = `'${href}' has ${size} bytes, not ${promised} as the descriptor says`;
  // Some mean the size before it was packed, and what is packed has a checksum.
  if (gzip) {
    onWarning(what);
    return;
  }
  throw new DiskError('corrupt', what, {
    path,
    field: 'size',
    detail: { fix: 'copy or download it again; nothing was imported' },
  });
}

/** Throws `corrupt` for a disk whose file was cut off or damaged, or that is not as large as the descriptor says. */
export async function assertWholeDisk(
  image: Image,
  disk: ApplianceDisk,
  path: string,
  options: Reporting & { readonly signal: AbortSignal },
): Promise<void> {
  const { format } = image.layer;
  // That it is a disk, the descriptor says.
  await assertWholeSource(image, { name: disk.file!.href, format, signal: options.signal });
  assertCapacity(disk, { size: image.size, format }, path, options);
}

/**
 * Throws `corrupt` for a disk that is not as large as the descriptor says. What rounding explains (to the descriptor's unit, to
 * MiB, to a VHD's cylinders) is warned of.
 */
export function assertCapacity(
  { file, capacity, capacityUnit = 1 }: ApplianceDisk,
  { size, format }: { readonly size: number; readonly format: string },
  path: string,
  { onWarning }: Reporting,
): void {
  if (capacity === undefined || capacity === size) return;
  const what = `'${file!.href}' is a disk of ${size} bytes, not of ${capacity} as the descriptor says`;
  // A raw disk is as large as its file, which may have been cut off: unless the file's size was compared.
  const isCertain = format !== 'raw' || !!file!.size;
  const rounding = isCertain ? Math.max(Math.min(capacityUnit, gibibyte), cylinder) : mebibyte;
  if (Math.abs(capacity - size) < rounding) {
    onWarning(what);
    return;
  }
  throw new DiskError('corrupt', what, {
    path,
    field: 'capacity',
    detail: { fix: 'have it exported or download it again, or import the disk alone: cowherd import FILE' },
  });
}
