import { formatLines } from '../format-lines.ts';

formatLines({
  name: 'parallels',
  options: ['cluster_size=64k', 'cluster_size=4k'],
  wrong: ['preallocation=metadata', 'cluster_size=0'],
  // QEMU marks an image that it has open.
  touches: true,
  sizes: ['0', '1', '512', '1000', '64k', '2000000', '3G', '1T'],
  liars: {
    magic: { at: 0, bytes: [0] },
    version: { at: 16, bytes: [3] },
    'tracks-none': { at: 28, bytes: [0, 0, 0, 0] },
    'tracks-huge': { at: 28, bytes: [0xff, 0xff, 0xff, 0xff] },
    entries: { at: 32, bytes: [0xff, 0xff, 0xff, 0xff] },
    unclean: { at: 44, bytes: [0x59, 0x6e, 0x6f, 0x74] },
    outside: { at: 64, bytes: [9] },
  },
  writing: [
    // QEMU's is cut at the end of its data as well.
    { line: 'check -r all -f parallels d/bad-outside', files: 'contents' },
    'check -r all -f parallels d/bad-unclean',
  ],
});
