import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { OptionSpec, OptionValues } from '../driver.ts';
import { alignment, MiB, maxBlockSize, maxDiskSize } from './constants.ts';

/** In the order of qemu-img's `-o help`, which has no backing files here. */
export const createOptions: readonly OptionSpec[] = [
  { name: 'backing_file', type: 'string', help: 'File name of a base image' },
  { name: 'backing_fmt', type: 'string', help: 'Image format of the base image' },
  {
    name: 'block_size',
    type: 'size',
    help: 'Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.',
    default: 0,
  },
  {
    name: 'block_state_zero',
    type: 'boolean',
    help: "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using 'qemu-img convert' with subformat=dynamic.",
  },
  { name: 'log_size', type: 'size', help: 'Log size; min 1MB.', default: 1048576 },
  { name: 'size', type: 'size', help: 'Virtual disk size; max of 64TB.' },
  {
    name: 'subformat',
    type: 'string',
    help: "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
  },
];

export interface VhdxCreateOptions {
  readonly fixed: boolean;
  /** Guest bytes, rounded up to whole sectors. */
  readonly size: number;
  readonly blockSize: number;
  readonly logSize: number;
  /** New blocks say that they are zero; else that they are not there. */
  readonly stateZero: boolean;
}

/** Throws `bad-argument` and `out-of-range` in QEMU's words. */
export function parseCreateOptions(
  wanted: number,
  values: OptionValues,
  hasBacking: boolean,
): VhdxCreateOptions {
  const subformat = values.subformat ?? 'dynamic';
  if (subformat !== 'dynamic' && subformat !== 'fixed') {
    throw refusal('subformat', `Parameter 'subformat' does not accept value '${subformat}'`);
  }
  if (hasBacking && subformat === 'fixed') {
    throw refusal('backing_file', 'A fixed image cannot have a backing file');
  }
  if (hasBacking && values.block_state_zero === true) {
    throw refusal('block_state_zero', 'Blocks that are zero would hide the backing file');
  }
  const size = alignUp(wanted, 512);
  if (size > maxDiskSize) {
    throw new DiskError('out-of-range', 'Image size too large; max of 64TB', {
      field: 'size',
      detail: { size },
    });
  }
  const logSize = alignUp(Number(values.log_size ?? MiB), alignment);
  if (logSize > 0xffff_ffff) throw refusal('log_size', 'Log size must be smaller than 4 GB');
  if (logSize === 0) throw refusal('log_size', 'Log size must be a multiple of 1 MB');
  const given = Math.min(maxBlockSize, alignUp(Number(values.block_size ?? 0), alignment));
  const blockSize = given === 0 ? defaultBlockSize(size, hasBacking) : given;
  if ((blockSize & (blockSize - 1)) !== 0) throw refusal('block_size', 'Block size must be a power of two');
  return {
    fixed: subformat === 'fixed',
    size,
    blockSize,
    logSize,
    stateZero: !hasBacking && values.block_state_zero !== false,
  };
}

/** As QEMU chooses it, so that the table stays small; small blocks for differencing disks, as Hyper-V has them. */
function defaultBlockSize(size: number, differencing: boolean): number {
  const GiB = 1024 * MiB;
  if (differencing && size <= 8 * 1024 * GiB) return 2 * MiB;
  if (size > 32 * 1024 * GiB) return 64 * MiB;
  if (size > 100 * GiB) return 32 * MiB;
  return size > GiB ? 16 * MiB : 8 * MiB;
}

function refusal(field: string, message: string): DiskError {
  return new DiskError('bad-argument', message, { field });
}
