import type { Difference } from './differences.ts';

/** What differs where images of qcow2 are changed: in what is left behind, and in how much is stored. */
export const qcow2Differences = [
  {
    id: 'failed-snapshot',
    what: '`snapshot -c` that fails',
    qemuImg: 'leaves the new tables behind, as leaks',
    cowImg: 'leaves the image as it was',
    reason: 'What was taken for nothing is given back.',
  },
  {
    id: 'needless-zeroes',
    what: '`rebase`, and `convert -n` into an image with a backing file, where zeroes take the place of other bytes or of zeroes',
    qemuImg: 'stores zeroes (`rebase`; `convert` in version 2)',
    cowImg: 'makes zero clusters, or nothing where the backing file reads as zeroes',
    reason: 'It reads the same and takes no space.',
    shown: 'elsewhere',
  },
  {
    id: 'amend-refused-late',
    what: '`amend -o compat=0.10,size=…` where a snapshot forbids the version',
    qemuImg: 'has changed the size when it refuses',
    cowImg: 'leaves the image as it was',
    reason: 'All of it or nothing.',
    shown: 'elsewhere',
  },
  {
    id: 'amend-bitmaps',
    what: '`amend -o compat=0.10` of an image with bitmaps',
    qemuImg: 'drops them without a word, and leaves their clusters as leaks',
    cowImg: 'refuses until they are removed',
    reason: 'What records the changes since the last backup should not go unnoticed.',
  },
] as const satisfies readonly Difference[];
