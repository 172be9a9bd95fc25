import { DiskError } from '../../errors.ts';
import type { OptionSpec, OptionValues } from '../driver.ts';
import type { DiskType } from './footer.ts';

/** In the order of qemu-img's `-o help`. */
export const createOptions: readonly OptionSpec[] = [
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

/** Throws `bad-argument` for a subformat that is none. */
export function parseCreateOptions(values: OptionValues): VpcCreateOptions {
  const type = values.subformat ?? 'dynamic';
  if (type !== 'dynamic' && type !== 'fixed') {
    throw new DiskError('bad-argument', `Parameter 'subformat' does not accept value '${type}'`, {
      field: 'subformat',
      detail: { value: String(type) },
    });
  }
  return { type, forceSize: values.force_size === true };
}
