import { DiskError } from '../../errors.ts';
import type { OptionSpec, OptionValues } from '../driver.ts';
import type { DiskType } from './footer.ts';

/** In the order of qemu-img's `-o help`, which has no backing files here. */
export const createOptions: readonly OptionSpec[] = [
  { name: 'backing_file', type: 'string', help: 'File name of a base image' },
  { name: 'backing_fmt', type: 'string', help: 'Image format of the base image' },
  {
    name: 'force_size',
    type: 'boolean',
    help: 'Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based calculation',
  },
  { name: 'size', type: 'size', help: 'Virtual disk size' },
  {
    name: 'subformat',
    type: 'string',
    help: 'Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ',
  },
];

export interface VpcCreateOptions {
  readonly type: Exclude<DiskType, 'differencing'>;
  readonly forceSize: boolean;
}

/** Throws `bad-argument` for a subformat that is none, and for a fixed disk over a backing image. */
export function parseCreateOptions(values: OptionValues, hasBacking: boolean): VpcCreateOptions {
  const type = values.subformat ?? 'dynamic';
  if (type !== 'dynamic' && type !== 'fixed') {
    throw new DiskError('bad-argument', `Parameter 'subformat' does not accept value '${type}'`, {
      field: 'subformat',
      detail: { value: String(type) },
    });
  }
  if (type === 'fixed' && hasBacking) {
    throw new DiskError('bad-argument', 'A fixed image cannot have a backing file', {
      field: 'backing_file',
    });
  }
  return { type, forceSize: values.force_size === true };
}
