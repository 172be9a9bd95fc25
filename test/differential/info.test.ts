import { lines, type Row } from './harness.ts';
import { liarNames } from './world.ts';

const images = [
  'raw.img',
  'full.img',
  'odd.img',
  'empty.img',
  'big.img',
  'plain.qcow2',
  'v2.qcow2',
  'c512.qcow2',
  'c4k.qcow2',
  'c2m.qcow2',
  'lazy.qcow2',
  'rc1.qcow2',
  'rc64.qcow2',
  'meta.qcow2',
  'full.qcow2',
  'empty.qcow2',
  'packed.qcow2',
  'snap.qcow2',
  'bitmap.qcow2',
  'mid.qcow2',
  'top.qcow2',
  'overraw.qcow2',
  'overv2.qcow2',
  'dir/clone.qcow2',
  './dir/../dir/clone.qcow2',
  '$PWD/dir/clone.qcow2',
  'file:dir/clone.qcow2',
  'file:plain.qcow2',
  'orphan.qcow2',
  'grandchild.qcow2',
  'wrongformat.qcow2',
  'loop1.qcow2',
  'remote.qcow2',
  'prefixed.qcow2',
  'noformat.qcow2',
  'link.qcow2',
  "'a,b c.qcow2'",
  './with:colon.qcow2',
  'bäh.qcow2',
];

lines(
  'info, for people',
  images.map((name) => `info ${name}`),
  { readOnly: true },
);

lines(
  'info, as JSON',
  images.map((name) => `info --output=json ${name}`),
  { readOnly: true },
);

lines(
  'info of a whole chain',
  [
    'info --backing-chain raw.img',
    'info --backing-chain top.qcow2',
    'info --backing-chain --output=json top.qcow2',
    'info --backing-chain --output json raw.img',
    'info --backing-chain dir/clone.qcow2',
    'info --output=json --backing-chain $PWD/dir/clone.qcow2',
    'info --backing-chain noformat.qcow2',
    'info --backing-chain link.qcow2',
    'info --backing-chain prefixed.qcow2',
    'info --backing-chain orphan.qcow2',
    'info --backing-chain --output=json orphan.qcow2',
    'info --backing-chain grandchild.qcow2',
    'info --backing-chain wrongformat.qcow2',
    'info --backing-chain loop1.qcow2',
    'info --backing-chain -U top.qcow2',
    'info --backing-chain -f qcow2 top.qcow2',
    'info --backing-chain -f raw top.qcow2',
    {
      line: 'info --backing-chain remote.qcow2',
      differs: 'protocols',
      ours: {
        code: 1,
        stderr: "Could not open 'nbd://localhost:1/x': The protocol 'nbd' is not supported yet",
      },
    },
  ],
  { readOnly: true },
);

lines(
  'info, options',
  [
    'info',
    'info raw.img plain.qcow2',
    'info -f raw plain.qcow2',
    'info -fraw plain.qcow2',
    'info --format=raw plain.qcow2',
    'info --format qcow2 plain.qcow2',
    'info -f qcow2 raw.img',
    'info -f qcow2 -f raw plain.qcow2',
    "info -f '' plain.qcow2",
    'info -f nonesuch plain.qcow2',
    'info -f nonesuch missing.img',
    'info -f',
    'info -U plain.qcow2',
    'info --force-share plain.qcow2',
    'info -U -U plain.qcow2',
    'info plain.qcow2 -U',
    'info plain.qcow2 --output json',
    'info --out json plain.qcow2',
    'info --output=human plain.qcow2',
    'info --output=xml plain.qcow2',
    'info --output=xml missing.img',
    'info --output= plain.qcow2',
    'info --output',
    'info --o plain.qcow2',
    'info --backing plain.qcow2',
    'info --backing-chain=1 plain.qcow2',
    'info -q plain.qcow2',
    'info -Uq plain.qcow2',
    'info -qU plain.qcow2',
    'info -- plain.qcow2',
    'info -- -U plain.qcow2',
    'info -p plain.qcow2',
    'info --object secret,id=a,data=b plain.qcow2',
    'info --object=secret,id=a,file=raw.img plain.qcow2',
    'info --object secret,id=a plain.qcow2',
    'info --object secret,data=b plain.qcow2',
    'info --object secret,id=1,data=b plain.qcow2',
    'info --object secret,id=a,data=b,file=c plain.qcow2',
    'info --object secret,id=a,data=b,colour=c plain.qcow2',
    'info --object secret,id=a,data=b,format=hex plain.qcow2',
    'info --object secret,id=a,file=/nonesuch plain.qcow2',
    'info --object nonesuch,id=a plain.qcow2',
    "info --object '' plain.qcow2",
    'info --object',
    'info --image-opts driver=qcow2,file.filename=plain.qcow2',
    { line: 'info plain.qcow2', held: 'plain.qcow2' },
    { line: 'info -U plain.qcow2', held: 'plain.qcow2' },
    { line: 'info -U --output=json plain.qcow2', held: 'plain.qcow2' },
    { line: 'info mid.qcow2', held: 'mid.qcow2' },
    { line: 'info plain.qcow2', held: 'mid.qcow2' },
    { line: 'info --backing-chain top.qcow2', held: 'mid.qcow2' },
    { line: 'info -U --backing-chain top.qcow2', held: 'mid.qcow2' },
    { line: 'info raw.img', held: '-f raw raw.img' },
    { line: 'info dir/clone.qcow2', held: 'dir/clone.qcow2' },
  ],
  { readOnly: true },
);

lines(
  'info, names that lead nowhere',
  [
    'info missing.img',
    'info missing/x.img',
    'info raw.img/x',
    'info raw.img/',
    'info folder',
    'info folder/',
    'info -f raw folder',
    'info dangling.qcow2',
    'info linkloop',
    "info ''",
    'info with:colon.qcow2',
    'info nonesuch:x',
    'info file:missing.img',
    'info -f qcow2 missing.img',
    'info --output=json missing.img',
    `info ${'x'.repeat(300)}`,
    {
      line: 'info fifo',
      differs: 'fifo',
      ours: { code: 1, stderr: "Could not open 'fifo': 'fifo' is a FIFO" },
    },
    {
      line: 'info /dev/null',
      differs: 'character-device',
      ours: { code: 1, stderr: "Could not open '/dev/null': '/dev/null' is a character device" },
    },
    {
      line: 'info nbd:localhost:1',
      differs: 'protocols',
      ours: { code: 1, stderr: "Could not open 'nbd:localhost:1': The protocol 'nbd' is not supported yet" },
    },
    "info 'json:{}'",
    'info foreign.vmdk',
    'info -f vmdk foreign.vmdk',
  ],
  { readOnly: true },
);

/** What ours answers to headers where it differs; the rest must be answered alike. */
const lies: Readonly<Record<string, Omit<Row, 'line'>>> = {
  sizemax: { differs: 'header-errors', ours: { code: 1, stderr: 'Image is too big' } },
  crypt2: { differs: 'crypt-crash', ours: { code: 0, stdout: 'luks' } },
  l1far: { differs: 'header-errors', ours: { code: 1, stderr: 'Active L1 table offset invalid' } },
  snapone: { differs: 'header-errors', ours: { code: 1, stderr: 'Snapshot L1 table offset invalid' } },
  fmtlong: { differs: 'header-errors', ours: { code: 1, stderr: 'Header extension too large' } },
};

function liarRows(command: string, more: Readonly<Record<string, Omit<Row, 'line'>>> = {}): Row[] {
  return liarNames.map((name) => ({ line: `${command} bad/${name}.qcow2`, ...lies[name], ...more[name] }));
}

lines(
  'info of headers that lie',
  liarRows('info', {
    version1: { differs: 'formats', ours: { code: 1, stderr: "The format 'qcow' is not supported yet" } },
  }),
  { readOnly: true },
);

lines('info of headers that lie, as qcow2', liarRows('info -f qcow2 --output=json'), { readOnly: true });
