import { lines, type Row } from './harness.ts';

const sizes = '0 1 1000 64k 65537 1M 1G 100G 1T 1P 2P 3P 64P 7E 7.9999999E 9223372036854775807 0x10k'.split(
  ' ',
);
const options = [
  'compat=0.10',
  'compat=1.1',
  'compat=v2',
  'cluster_size=512',
  'cluster_size=4k',
  'cluster_size=2M',
  'refcount_bits=1',
  'refcount_bits=64',
  'extended_l2=on',
  'extended_l2=on,cluster_size=16k',
  'preallocation=metadata',
  'preallocation=falloc',
  'preallocation=full',
  'lazy_refcounts=on,compat=0.10',
  'compat=0.10,extended_l2=on',
  'backing_file=x,backing_fmt=raw',
  'data_file=x',
  'data_file_raw=on',
  'encryption=on',
  'size=5M',
  'compression_type=zstd',
  'nocow=on',
  'cluster_size=512,refcount_bits=64',
];
const images =
  'raw.img full.img odd.img empty.img big.img plain.qcow2 v2.qcow2 c512.qcow2 c4k.qcow2 c2m.qcow2 lazy.qcow2 meta.qcow2 ' +
  'full.qcow2 empty.qcow2 packed.qcow2 snap.qcow2 bitmap.qcow2 mid.qcow2 top.qcow2 overraw.qcow2 short.qcow2 dir/clone.qcow2';

lines(
  'measure, sizes',
  sizes.flatMap((size) => [`measure --size ${size}`, `measure -O qcow2 --size ${size}`]),
  { readOnly: true },
);

lines(
  'measure, options',
  options.flatMap((option) => [
    `measure -O qcow2 -o ${option} --size 1G`,
    `measure -O qcow2 -o ${option} plain.qcow2`,
    `measure -O qcow2 -o ${option} --output=json bitmap.qcow2`,
  ]),
  { readOnly: true },
);

lines(
  'measure, images',
  images
    .split(' ')
    .flatMap((name) => [
      `measure ${name}`,
      `measure -O qcow2 ${name}`,
      `measure -O qcow2 --output json ${name}`,
      `measure -O qcow2 -o cluster_size=4k ${name}`,
    ]),
  { readOnly: true },
);

lines(
  'measure, arguments',
  [
    'measure',
    'measure --output=json',
    'measure raw.img full.img',
    'measure --size 1G raw.img',
    'measure -f raw --size 1G',
    'measure -l x --size 1G',
    'measure --output=xml raw.img',
    'measure --output=human raw.img',
    'measure --output json --size 1G',
    'measure --out=json --size 1G',
    'measure --size abc',
    'measure --size -1',
    'measure --size 8E',
    'measure --size 1.5',
    'measure --size 1G --size 2G',
    'measure -f raw raw.img',
    'measure -f raw plain.qcow2',
    'measure -f qcow2 raw.img',
    'measure -f nonesuch raw.img',
    'measure -U raw.img',
    'measure --force-share plain.qcow2',
    'measure -O nonesuch --size 1G',
    "measure -O '' --size 1G",
    ...[
      'vmdk',
      'vdi',
      'vpc',
      'vhdx',
      'qcow',
      'qed',
      'parallels',
      'bochs',
      'cloop',
      'dmg',
      'null-co',
      'file',
      'nbd',
    ].map((name) => `measure -O ${name} --size 1G`),
    {
      line: 'measure -O luks --size 1G',
      differs: 'formats',
      ours: { code: 1, stderr: "'luks' is not supported" },
    },
    'measure -O qcow2 -o nonesuch=1 --size 1G',
    'measure -O qcow2 -o help --size 1G',
    'measure -O qcow2 -o , --size 1G',
    'measure -O qcow2 -o cluster_size=3k --size 1G',
    'measure -O qcow2 -o cluster_size=abc --size 1G',
    'measure -O qcow2 -o cluster_size=4M --size 1G',
    'measure -O qcow2 -o cluster_size=4k,extended_l2=on --size 1G',
    'measure -O qcow2 -o compat=nonesuch --size 1G',
    'measure -O qcow2 -o compat=0.10,refcount_bits=8 --size 1G',
    'measure -O qcow2 -o refcount_bits=3 --size 1G',
    'measure -O qcow2 -o lazy_refcounts=maybe --size 1G',
    'measure -O qcow2 -o preallocation=some --size 1G',
    'measure -O qcow2 -o compat=1.1 -o cluster_size=4k --size 1G',
    'measure -O raw -o cluster_size=4k --size 1G',
    'measure -O raw -o preallocation=full --size 1G',
    'measure -O raw -o size=5M --size 1G',
    'measure -O qcow2 -o size=5M raw.img',
    'measure -l x plain.qcow2',
    'measure --object secret,id=a raw.img',
    'measure nothing',
    'measure folder',
    "measure ''",
    'measure orphan.qcow2',
    'measure -O nonesuch nothing',
    'measure -O qcow2 nothing',
    'measure bad/version4.qcow2',
    'measure -O qcow2 bad/l2odd.qcow2',
    { line: 'measure plain.qcow2', held: 'plain.qcow2' },
    { line: 'measure -U plain.qcow2', held: 'plain.qcow2' },
    { line: 'measure -z', differs: 'help', ours: { code: 0, stdout: 'Command syntax:' } },
    { line: 'measure -q raw.img', differs: 'help', ours: { code: 0, stdout: 'Command syntax:' } },
    { line: 'measure --size', differs: 'help', ours: { code: 0, stdout: 'Command syntax:' } },
  ] satisfies (string | Row)[],
  { readOnly: true },
);
