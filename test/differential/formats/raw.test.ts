import { formatLines } from '../format-lines.ts';

formatLines({
  name: 'raw',
  options: ['preallocation=falloc', 'preallocation=full'],
  wrong: ['preallocation=metadata', 'cluster_size=4k'],
});
