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
  {
    id: 'amend-packed-snapshot',
    what: '`amend -o compat=0.10` of an image with zstd of which only a snapshot has compressed clusters',
    qemuImg: 'goes ahead, and the snapshot cannot be read any more',
    cowImg: 'refuses as where the disk has them',
    reason: 'Version 2 would take them for deflated.',
  },
  {
    id: 'silent-repair',
    what: '`amend` of an image with lazy refcounts that was not closed',
    qemuImg: 'tells each refcount that it puts right when it opens the image',
    cowImg: 'puts them right in silence',
    reason: 'Lazy refcounts are meant to be wrong then; `check` tells.',
    shown: 'elsewhere',
  },
  {
    id: 'packed-from-afar',
    what: '`convert -c` to qcow2 or qcow by zlib, where the library libdeflate is installed',
    qemuImg: 'refers back by at most 4 KiB',
    cowImg: 'refers back by up to 32 KiB, as deflate may; other bytes, of the same size',
    reason:
      'A quarter of the time. QEMU unpacks a cluster at once and takes any distance; so do 7-Zip and libqcow.',
    shown: 'elsewhere',
  },
  {
    id: 'growth-map',
    what: '`map` of what `resize --preallocation` has added to an image with a backing file',
    qemuImg: 'shows zero clusters with a place in the file',
    cowImg: 'shows data that reads as zeroes, since nothing was written there',
    reason: 'It reads the same, and a later write finds the same space.',
    shown: 'elsewhere',
  },
  {
    id: 'map-through-blkdebug',
    what: '`map` of a `blkdebug` node with a format beneath (`image.driver=…`), or with an alignment of its own',
    qemuImg: 'names the files of the chain beneath, and rounds to the alignment',
    cowImg: 'names the top image, and does not round',
    reason: 'What is zero and what is data is said alike; such nodes are for tests of errors.',
    shown: 'elsewhere',
  },
] as const satisfies readonly Difference[];
