import { formatLines } from '../format-lines.ts';

formatLines({
  name: 'qed',
  // Clusters come in another order.
  files: 'contents',
  options: ['cluster_size=4k', 'cluster_size=8k,table_size=2', 'table_size=16'],
  wrong: ['cluster_size=3', 'cluster_size=128M', 'table_size=3', 'table_size=32', 'preallocation=metadata'],
  sizes: ['0', '1', '512', '1000', '64k', '2000000', '3G', '1T', '100T'],
  liars: {
    'cluster-size': { at: 4, bytes: [1] },
    'table-size': { at: 8, bytes: [3] },
    'header-size': { at: 12, bytes: [0] },
    'header-size-huge': { at: 12, bytes: [0xff, 0xff, 0xff, 0xff] },
    features: { at: 16, bytes: [0x10] },
    unclean: { at: 16, bytes: [2] },
    'l1-offset': { at: 40, bytes: [1] },
    size: { at: 48, bytes: [1] },
    'l1-entry': { at: 65536, bytes: [0, 0, 0, 1] },
    'l2-entry': { at: 327680, bytes: [0, 0, 0, 0x10] },
    'l2-twice': { at: 327688, bytes: [0, 0, 9] },
  },
  writing: [
    'check -r all -f qed d/bad-l2-entry',
    'check -r leaks -f qed d/bad-l2-entry',
    'check -r all -f qed d/bad-l1-entry',
    'check -r all -f qed d/bad-unclean',
    'check -r leaks -f qed d/bad-unclean',
    'check -r all -f qed --output=json d/bad-l2-twice',
    'resize -f qed d/bad-unclean 4M',
  ],
});
