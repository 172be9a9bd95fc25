import { lines, type Row } from './harness.ts';

const changes = (...rows: readonly string[]): Row[] => rows.map((line) => ({ line, files: 'contents' }));

lines('convert --bitmaps', [
  ...changes(
    'convert --bitmaps -O qcow2 bitmap.qcow2 out',
    'convert --bitmaps -c -O qcow2 bitmap.qcow2 out',
    'convert --bitmaps -O qcow2 -o cluster_size=512 bitmap.qcow2 out',
    'convert --bitmaps -O qcow2 plain.qcow2 out',
    'convert --bitmaps --skip-broken-bitmaps -O qcow2 bitmap.qcow2 out',
    'convert --bitmaps --skip-broken-bitmaps -O qcow2 inuse.qcow2 out',
    'convert --bitmaps -n -O qcow2 bitmap.qcow2 snap.qcow2',
    'convert --bitmaps -O qcow2 -l first snap.qcow2 out',
    'convert -O qcow2 -l first snap.qcow2 out',
    'convert -O qcow2 -l snapshot.id=2 snap.qcow2 out',
  ),
  'convert -O raw -l first snap.qcow2 out',
  "convert -O raw -l snapshot.id=2,snapshot.name='the second one' snap.qcow2 out",
  'convert -O raw -l nix snap.qcow2 out',
  'convert -O raw -l snapshot.id=7 snap.qcow2 out',
  'convert -O raw -l snapshot.x=7 snap.qcow2 out',
  'convert -O raw -l first snap.qcow2 snap.qcow2 out',
  'convert -O raw -l first raw.img out',
  'convert --bitmaps -O qcow2 inuse.qcow2 out',
  'convert --bitmaps -O qcow2 raw.img out',
  'convert --bitmaps -O qcow2 v2.qcow2 out',
  'convert --bitmaps -O qcow2 bitmap.qcow2 bitmap.qcow2 out',
  'convert --skip-broken-bitmaps -O qcow2 bitmap.qcow2 out',
]);

lines('bitmaps in use', [
  'info inuse.qcow2',
  'info --output json inuse.qcow2',
  { line: 'bitmap --remove inuse.qcow2 b0', files: 'contents' },
  { line: 'bitmap --clear inuse.qcow2 b0', files: 'contents' },
  { line: 'bitmap --enable inuse.qcow2 b0', files: 'contents' },
  { line: 'bitmap --merge b0 inuse.qcow2 whole', files: 'contents' },
  { line: 'bitmap --merge whole inuse.qcow2 b0', files: 'contents' },
  { line: 'bitmap --add inuse.qcow2 b0', files: 'contents' },
  { line: 'bitmap --add inuse.qcow2 b5', files: 'contents' },
  { line: 'snapshot -c one inuse.qcow2', files: 'contents' },
]);
