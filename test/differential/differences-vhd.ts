import type { Difference } from './differences.ts';

/** What differs with the formats of Hyper-V. */
export const vhdDifferences = [
  {
    id: 'vhdx-map',
    what: '`map` of a VHDX image, and `measure` and `compare -s`, which go by it',
    qemuImg: 'takes all of it for data of which nobody knows the place',
    cowImg: 'says which blocks are there, where they lie, and which read as zeroes',
    reason: 'The format says it; a conversion then reads only what is there.',
  },
  {
    id: 'vhdx-truncated',
    what: 'A VHDX image whose file ends before its blocks do, opened for its data',
    qemuImg: 'says what is wrong on a line of its own, then `Invalid argument`',
    cowImg: 'says what is wrong as the reason why it could not be opened',
    reason: 'One sentence tells it.',
  },
  {
    id: 'vhdx-log',
    what: 'A VHDX image with entries in its log, opened for reading',
    qemuImg: 'refuses it until `check -r all` has replayed them',
    cowImg: 'replays them before its own eyes only, and leaves the file as it is',
    reason: 'What another program left half done is no reason not to read.',
  },
  {
    id: 'vhdx-sectors',
    what: 'A VHDX image with sectors of 4096 bytes',
    qemuImg: 'shows an eighth of the disk',
    cowImg: 'shows all of it',
    reason: "QEMU counts the disk's sectors as if they had 512 bytes. Converting would lose the rest.",
  },
  {
    id: 'vhd-copies',
    what: 'A VHD image with one of its two footers broken, or a VHDX image with one of its region tables broken',
    qemuImg: 'refuses it',
    cowImg: 'goes by the other copy',
    reason: 'That is what the copy is for.',
  },
  {
    id: 'differencing',
    what: 'Differencing VHD and VHDX images',
    qemuImg: "reads a VHD without its parent, the parent's sectors as garbage or zeroes; refuses a VHDX",
    cowImg: 'opens the parent that its locators name, and makes sure by the identifiers that it is the one',
    reason: 'Whoever reads such a disk wants what its guest saw.',
  },
] as const satisfies readonly Difference[];
