import { DiskError } from '../../errors.ts';
import type { OptionSpec, OptionValues } from '../driver.ts';

/** In the order that QEMU lists them. */
export const createOptions: readonly OptionSpec[] = [
  {
    name: 'adapter_type',
    type: 'string',
    help: 'Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX',
  },
  { name: 'backing_file', type: 'string', help: 'File name of a base image' },
  { name: 'backing_fmt', type: 'string', help: "Must be 'vmdk' if present" },
  { name: 'compat6', type: 'boolean', help: 'VMDK version 6 image', default: false },
  { name: 'hwversion', type: 'string', help: 'VMDK hardware version', default: 'undefined' },
  { name: 'size', type: 'size', help: 'Virtual disk size' },
  {
    name: 'subformat',
    type: 'string',
    help:
      'VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | ' +
      'twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ',
  },
  { name: 'toolsversion', type: 'string', help: 'VMware guest tools version' },
  {
    name: 'zeroed_grain',
    type: 'boolean',
    help: 'Enable efficient zero writes using the zeroed-grain GTE feature',
  },
];

const subformats = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'streamOptimized',
] as const;
const adapters = ['ide', 'buslogic', 'lsilogic', 'legacyESX'] as const;

/** What a new image is to be, understood. */
export interface CreateWish {
  readonly subformat: (typeof subformats)[number];
  readonly adapterType: (typeof adapters)[number];
  readonly hardwareVersion: string;
  readonly toolsVersion: string;
  readonly zeroedGrain: boolean;
  /** In files of 2 GiB. */
  readonly split: boolean;
  readonly flat: boolean;
  readonly packed: boolean;
}

/** Throws `bad-argument` in QEMU's words, in its order. */
export function readCreateOptions(options: OptionValues, path: string, hasBacking: boolean): CreateWish {
  const fail = (field: string, message: string, code: 'bad-argument' | 'unsupported' = 'bad-argument') =>
    new DiskError(code, message, { path, field });
  if (options.backing_fmt !== undefined && options.backing_fmt !== 'vmdk') {
    throw fail('backing_fmt', 'backing_file must be a vmdk image');
  }
  const oneOf = <Name extends string>(field: string, names: readonly Name[]): Name => {
    const value = options[field];
    if (value === undefined) return names[0];
    const known = names.find((name) => name === value);
    if (known === undefined) throw fail(field, `invalid parameter value: ${value}`);
    return known;
  };
  const adapterType = oneOf('adapter_type', adapters);
  const subformat = oneOf('subformat', subformats);
  let hardwareVersion = String(options.hwversion ?? 'undefined');
  if (hardwareVersion === 'undefined') hardwareVersion = options.compat6 === true ? '6' : '4';
  else if (options.compat6 === true) {
    throw fail('compat6', 'compat6 cannot be enabled with hwversion set');
  }
  const zeroedGrain = options.zeroed_grain === true;
  const flat = subformat === 'monolithicFlat' || subformat === 'twoGbMaxExtentFlat';
  if (flat && hasBacking) throw fail('backing_file', "Flat image can't have backing file", 'unsupported');
  if (flat && zeroedGrain) throw fail('zeroed_grain', "Flat image can't enable zeroed grain", 'unsupported');
  return {
    subformat,
    adapterType,
    hardwareVersion,
    toolsVersion: String(options.toolsversion ?? '2147483647'),
    zeroedGrain,
    split: subformat === 'twoGbMaxExtentSparse' || subformat === 'twoGbMaxExtentFlat',
    flat,
    packed: subformat === 'streamOptimized',
  };
}
