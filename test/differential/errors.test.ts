import { lines } from './harness.ts';

lines(
  'the program itself',
  [
    '',
    'nonesuch',
    'Info raw.img',
    "''",
    '-x',
    '-xh',
    '--nonesuch',
    '--trace',
    '-T',
    '--',
    '--help=1',
    '--v=1',
    '-- info missing.img',
    '-U info raw.img',
    '--version=1',
    {
      line: '--help',
      differs: 'help',
      ours: { code: 0, stdout: 'usage: qemu-img [standard options] command' },
    },
    { line: '-h', differs: 'help', ours: { code: 0, stdout: 'Supported formats: bochs cloop dmg' } },
    { line: '--he', differs: 'help', ours: { code: 0, stdout: 'Command syntax:' } },
    { line: '-h create', differs: 'help', ours: { code: 0, stdout: 'Command syntax:' } },
    { line: 'create --help', differs: 'help', ours: { code: 0, stdout: 'Command syntax:' } },
    { line: 'info -h', differs: 'help', ours: { code: 0, stdout: 'Command syntax:' } },
    { line: 'info --he raw.img', differs: 'help', ours: { code: 0, stdout: 'Command syntax:' } },
    { line: '--version', differs: 'help', ours: { code: 0, stdout: 'qemu-img version 7.2.0 (cowherd ' } },
    { line: '-Vx', differs: 'help', ours: { code: 0, stdout: 'qemu-img version 7.2.0 (cowherd ' } },
    { line: '-T nonesuch', differs: 'trace', ours: { code: 0 } },
    { line: '-T nonesuch info raw.img', differs: 'trace', ours: { code: 0, stdout: 'image: raw.img' } },
    { line: '-V info', differs: 'help', ours: { code: 0, stdout: 'qemu-img version 7.2.0 (cowherd ' } },
    {
      line: '--vers nonesuch',
      differs: 'help',
      ours: { code: 0, stdout: 'qemu-img version 7.2.0 (cowherd ' },
    },
    ...['amend', 'bench', 'bitmap', 'commit', 'dd', 'measure', 'rebase', 'snapshot'],
  ],
  { readOnly: true },
);

const verbs = ['map', 'check'];

lines(
  'reading verbs and images that cannot be opened',
  verbs.flatMap((verb) => [
    verb,
    `${verb} raw.img plain.qcow2`,
    `${verb} missing.img`,
    `${verb} missing/x.img`,
    `${verb} folder`,
    `${verb} dangling.qcow2`,
    `${verb} ''`,
    `${verb} nonesuch:x`,
    `${verb} -f nonesuch raw.img`,
    `${verb} -f qcow2 raw.img`,
    `${verb} -z raw.img`,
    `${verb} --output=xml raw.img`,
    `${verb} orphan.qcow2`,
    `${verb} grandchild.qcow2`,
    `${verb} wrongformat.qcow2`,
    `${verb} bad/version4.qcow2`,
    `${verb} bad/bits22.qcow2`,
    `${verb} bad/incompat5.qcow2`,
    { line: `${verb} plain.qcow2`, held: 'plain.qcow2' },
    { line: `${verb} top.qcow2`, held: 'mid.qcow2' },
    { line: `${verb} -U plain.qcow2`, held: 'plain.qcow2' },
    { line: `${verb} fifo`, differs: 'fifo', ours: { code: 1, stderr: "'fifo' is a FIFO" } } as const,
    `${verb} foreign.vmdk`,
    {
      line: `${verb} loop1.qcow2`,
      differs: 'backing-loop',
      ours: { code: 1, stderr: "Backing file 'loop1.qcow2' creates an infinite loop." },
    } as const,
  ]),
  { readOnly: true },
);

lines(
  'names beside an image',
  [
    {
      line: 'map dir/outside.qcow2',
      differs: 'data-file-place',
      ours: { code: 0, stdout: 'Mapped to' },
    },
  ],
  { readOnly: true },
);

lines(
  'compare and images that cannot be opened',
  [
    'compare',
    'compare raw.img',
    'compare raw.img raw.img raw.img',
    'compare missing.img raw.img',
    'compare raw.img missing.img',
    'compare raw.img folder',
    'compare -f nonesuch raw.img raw.img',
    'compare -F nonesuch raw.img raw.img',
    'compare -f qcow2 raw.img raw.img',
    'compare -z raw.img raw.img',
    'compare orphan.qcow2 raw.img',
    'compare raw.img bad/version4.qcow2',
    "compare '' raw.img",
    { line: 'compare plain.qcow2 raw.img', held: 'plain.qcow2' },
    { line: 'compare raw.img fifo', differs: 'fifo', ours: { code: 2, stderr: "'fifo' is a FIFO" } },
  ],
  { readOnly: true },
);
