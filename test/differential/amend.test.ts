import { zeroesAndDataFiles } from './amend-world.ts';
import { lines, type Row } from './harness.ts';

const changed = (line: string): Row => ({ line, files: 'contents' });
const images = 'plain v2 c512 c4k c2m lazy rc1 rc64 meta packed snap mid top overraw overv2 short'.split(' ');
const options = [
  'compat=0.10',
  'compat=1.1',
  'refcount_bits=8',
  'refcount_bits=64',
  'lazy_refcounts=on',
  'lazy_refcounts=off',
  'size=4M',
];

lines(
  'amend',
  images
    .flatMap((name) => options.map((option) => changed(`amend -o ${option} ${name}.qcow2`)))
    .filter(({ line }) => line !== 'amend -o size=4M overv2.qcow2')
    // Here qemu-img itself computes for half a minute and more.
    .filter(({ line }) => !/refcount_bits=\d+ (c2m|rc1)\./.test(line)),
);

lines('amend, several options', [
  changed('amend -o compat=v3 v2.qcow2'),
  changed('amend -o compat=v2 plain.qcow2'),
  changed('amend -o compat=1.1,lazy_refcounts=on,refcount_bits=64 v2.qcow2'),
  changed('amend -o compat=1.1 -o refcount_bits=1 v2.qcow2'),
  changed('amend -o compat=0.10,size=4M plain.qcow2'),
  changed('amend -o compat=0.10,refcount_bits=16 plain.qcow2'),
  changed('amend -o refcount_bits=1 plain.qcow2'),
  changed('amend -o refcount_bits=2 snap.qcow2'),
  changed('amend -o refcount_bits=16 rc64.qcow2'),
  changed('amend -o refcount_bits=32 c512.qcow2'),
  changed('amend -o refcount_bits=32 outside.qcow2'),
  changed('amend -o size=1M plain.qcow2'),
  changed('amend -o size=0 plain.qcow2'),
  changed('amend -q -o compat=0.10 plain.qcow2'),
  changed('amend -pq -o compat=0.10 plain.qcow2'),
  changed('amend -p -o size=4M plain.qcow2'),
  changed('amend -p -o lazy_refcounts=on plain.qcow2'),
  changed('amend --force -o compat=0.10 plain.qcow2'),
  changed('amend -t none -f qcow2 -o compat=0.10 plain.qcow2'),
  changed('amend -o backing_file=plain.qcow2,backing_fmt=qcow2 mid.qcow2'),
  changed('amend -o data_file_raw=off plain.qcow2'),
  changed('amend -o compat=1.1,lazy_refcounts=off lazy.qcow2'),
]);

lines('amend, help', [
  'amend -o help plain.qcow2',
  "amend -o '?' plain.qcow2",
  'amend -f qcow2 -o help',
  'amend -f qcow2 -o help plain.qcow2',
  'amend -p -f qcow2 -o help',
  'amend -o help',
  'amend -f raw -o help',
  'amend -f vmdk -o help',
  'amend -f nonesuch -o help',
  'amend -o help raw.img',
  'amend -o help nothing',
]);

lines('amend, refused', [
  'amend',
  'amend plain.qcow2',
  'amend -p plain.qcow2',
  'amend -o compat=1.1',
  'amend -o compat=1.1 plain.qcow2 v2.qcow2',
  'amend -o',
  'amend -U -o compat=1.1 plain.qcow2',
  'amend --nonesuch',
  'amend -o , plain.qcow2',
  "amend -o '' plain.qcow2",
  'amend -o compat=nonesuch plain.qcow2',
  'amend -p -o compat=nonesuch plain.qcow2',
  'amend -o compat plain.qcow2',
  'amend -o nonesuch=1 plain.qcow2',
  'amend -p -o nonesuch=1 plain.qcow2',
  ...[
    'cluster_size=4k',
    'preallocation=full',
    'encryption=on',
    'compression_type=zstd',
    'extended_l2=on',
  ].map((option) => `amend -o ${option} plain.qcow2`),
  'amend -o encrypt.format=luks plain.qcow2',
  'amend -o encrypt.state=active plain.qcow2',
  'amend -o encrypt.new-secret=x plain.qcow2',
  'amend -o encrypt.keyslot=1 plain.qcow2',
  'amend -o refcount_bits=3 plain.qcow2',
  'amend -o refcount_bits=0 plain.qcow2',
  'amend -o refcount_bits=128 plain.qcow2',
  'amend -o refcount_bits=abc plain.qcow2',
  'amend -o refcount_bits=8 v2.qcow2',
  'amend -o refcount_bits=1 snap.qcow2',
  'amend -o lazy_refcounts=on v2.qcow2',
  'amend -o lazy_refcounts=maybe plain.qcow2',
  'amend -o compat=0.10,lazy_refcounts=on plain.qcow2',
  'amend -o compat=0.10,refcount_bits=8 plain.qcow2',
  'amend -o compat=0.10 rc64.qcow2',
  'amend -o size=1000000 plain.qcow2',
  'amend -o size=9E plain.qcow2',
  'amend -o size=8E plain.qcow2',
  'amend -o size=abc plain.qcow2',
  'amend -o backing_file=raw.img plain.qcow2',
  'amend -o backing_file=raw.img,backing_fmt=raw plain.qcow2',
  'amend -o backing_fmt=raw mid.qcow2',
  'amend -o backing_file= mid.qcow2',
  'amend -o backing_file=plain.qcow2 mid.qcow2',
  'amend -o data_file=x plain.qcow2',
  'amend -o data_file_raw=on plain.qcow2',
  'amend -o compat=1.1 raw.img',
  'amend -f raw -o size=3M raw.img',
  'amend -f qcow2 -o compat=1.1 raw.img',
  'amend -f nonesuch -o compat=1.1 plain.qcow2',
  'amend -t nonesuch -o compat=1.1 plain.qcow2',
  'amend -o compat=1.1 nothing',
  'amend -p -o compat=1.1 nothing',
  'amend -o compat=1.1 orphan.qcow2',
  'amend -o compat=0.10 bad/corrupt.qcow2',
  'amend --object secret,id=a -o compat=1.1 plain.qcow2',
  { line: 'amend -o size=4M overv2.qcow2', differs: 'resize-v2-overlay', ours: { code: 0 } },
  { line: 'amend -o compat=0.10 plain.qcow2', held: '-r plain.qcow2' },
  {
    line: 'amend -o compat=0.10 bitmap.qcow2',
    differs: 'amend-bitmaps',
    ours: { code: 1, stderr: 'with bitmaps' },
  },
  {
    line: 'amend -p -o compat=0.10 plain.qcow2',
    differs: 'progress',
    ours: { code: 0, stdout: '(100.00/100%)' },
  },
] satisfies (string | Row)[]);

const dataFiles = (line: string, files: Row['files'] = 'contents'): Row => ({ line, files });

lines(
  'amend, zero clusters of snapshots, data files',
  [
    ...['bare', 'own', 'shared', 'over', 'overs'].map((name) =>
      changed(`amend -o compat=0.10 ${name}.qcow2`),
    ),
    dataFiles('amend -o data_file=b.data ext.qcow2'),
    dataFiles('amend -o data_file=nothere.data ext.qcow2', 'info'),
    dataFiles('amend -o data_file= ext.qcow2', 'info'),
    dataFiles('amend -p -o data_file=b.data,lazy_refcounts=on ext.qcow2'),
    dataFiles('amend -o data_file=b.data,data_file_raw=on ext.qcow2'),
    dataFiles('amend -o data_file_raw=off ext.qcow2'),
    dataFiles('amend -o data_file_raw=off extraw.qcow2'),
    dataFiles('amend -o data_file_raw=on extraw.qcow2'),
    dataFiles('amend -o data_file=x bare.qcow2'),
    dataFiles('amend -o compat=0.10 ext.qcow2'),
    dataFiles('amend -o refcount_bits=64 ext.qcow2'),
    dataFiles('check ext.qcow2'),
    dataFiles('check -r all ext.qcow2'),
    dataFiles('check --output=json -r leaks extraw.qcow2'),
  ],
  { world: zeroesAndDataFiles },
);
