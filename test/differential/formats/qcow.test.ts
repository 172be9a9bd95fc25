import { formatLines } from '../format-lines.ts';

formatLines({
  name: 'qcow',
  // Clusters come in another order.
  files: 'contents',
  wrong: ['cluster_size=4k', 'preallocation=metadata'],
  differs: [
    [
      /^convert .*-c raw.img new/,
      { differs: 'qcow-packed', ours: { code: 0 }, filesDifferIfRefused: undefined },
    ],
  ],
  liars: {
    version: { at: 7, bytes: [2] },
    'size-small': { at: 24, bytes: [0, 0, 0, 0, 0, 0, 0, 1] },
    'size-huge': { at: 24, bytes: [0x7f] },
    'cluster-bits': { at: 32, bytes: [8] },
    'l2-bits': { at: 33, bytes: [3] },
    crypt: { at: 39, bytes: [2] },
    'name-long': { at: 8, bytes: [0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 5, 0] },
  },
});
