import { lines } from './harness.ts';

lines('targets with subclusters or a data file', [
  // QEMU's file may end inside its last cluster.
  { line: 'convert -O qcow2 -o extended_l2=on plain.qcow2 new.qcow2', files: 'contents' },
  { line: 'convert -O qcow2 -o extended_l2=on,cluster_size=16k raw.img new.qcow2', files: 'contents' },
  { line: 'convert -c -O qcow2 -o extended_l2=on plain.qcow2 new.qcow2', files: 'contents' },
  {
    line: 'convert -c -O qcow2 -o extended_l2=on,compression_type=zstd raw.img new.qcow2',
    files: 'contents',
  },
  'convert -O qcow2 -o data_file=d plain.qcow2 new.qcow2',
  'convert -O qcow2 -o data_file=d,data_file_raw=on plain.qcow2 new.qcow2',
  'convert -O qcow2 -o data_file=d,extended_l2=on raw.img new.qcow2',
  { line: 'convert -c -O qcow2 -o data_file=d raw.img new.qcow2', filesDiffer: 'failed-create' },
  'convert -O qcow2 -o data_file=d,compat=0.10 raw.img new.qcow2',
  'convert -O qcow2 -o data_file_raw=on raw.img new.qcow2',
]);

const options = [
  'overlap-check=none',
  'overlap-check=constant',
  'overlap-check=foo',
  'overlap-check.template=all',
  'overlap-check.template=bad',
  'overlap-check.main-header=off',
  'overlap-check.main-header=maybe',
  'overlap-check.nope=on',
  'overlap-check=constant,overlap-check.template=all',
  'overlap-check.bitmap-directory=on,overlap-check.snapshot-table=off,overlap-check.inactive-l2=on',
  'pass-discard-request=off,pass-discard-snapshot=on',
  'pass-discard-other=x',
  'l2-cache-entry-size=512',
  'l2-cache-entry-size=64k',
  'l2-cache-entry-size=100',
  'l2-cache-entry-size=256',
  'l2-cache-entry-size=128k',
  'cache-clean-interval=5',
  'cache-clean-interval=99999999999',
  'cache-clean-interval=-1',
  'discard-no-unref=on',
];

lines(
  'runtime options of qcow2',
  options.map((option) => `map --output=json --image-opts driver=qcow2,file.filename=plain.qcow2,${option}`),
  { readOnly: true },
);
