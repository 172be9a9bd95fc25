import { lines, type Row } from './harness.ts';

const pairs =
  'raw.img:raw.img raw.img:full.img full.img:raw.img raw.img:overraw.qcow2 overraw.qcow2:raw.img ' +
  'plain.qcow2:v2.qcow2 plain.qcow2:c512.qcow2 c4k.qcow2:c2m.qcow2 plain.qcow2:packed.qcow2 packed.qcow2:plain.qcow2 ' +
  'plain.qcow2:mid.qcow2 mid.qcow2:top.qcow2 top.qcow2:mid.qcow2 short.qcow2:plain.qcow2 plain.qcow2:short.qcow2 ' +
  'meta.qcow2:full.qcow2 meta.qcow2:lazy.qcow2 lazy.qcow2:meta.qcow2 empty.qcow2:lazy.qcow2 empty.qcow2:plain.qcow2 ' +
  'empty.img:empty.qcow2 empty.img:raw.img odd.img:odd.img odd.img:raw.img odd.img:empty.img plain.qcow2:plain.qcow2 ' +
  'snap.qcow2:bitmap.qcow2 bitmap.qcow2:snap.qcow2 rc1.qcow2:rc64.qcow2 dir/clone.qcow2:mid.qcow2 big.img:lazy.qcow2';

lines(
  'compare',
  pairs.split(' ').flatMap((pair) => {
    const names = pair.replace(':', ' ');
    return [`compare ${names}`, `compare -s ${names}`, `compare -p ${names}`, `compare -ps ${names}`];
  }),
  { readOnly: true },
);

lines(
  'compare, options',
  [
    'compare',
    'compare raw.img',
    'compare raw.img full.img plain.qcow2',
    'compare -q raw.img full.img',
    'compare -pq raw.img full.img',
    'compare -q raw.img raw.img',
    'compare -f raw raw.img full.img',
    'compare -f raw -F raw raw.img full.img',
    'compare -f qcow2 raw.img full.img',
    'compare -F qcow2 plain.qcow2 raw.img',
    'compare -p -F qcow2 plain.qcow2 raw.img',
    'compare -f nonesuch raw.img raw.img',
    'compare -F nonesuch raw.img raw.img',
    'compare -f raw -F raw plain.qcow2 v2.qcow2',
    'compare -T none raw.img raw.img',
    'compare -T nonesuch raw.img raw.img',
    'compare -p -T nonesuch raw.img raw.img',
    'compare -U raw.img raw.img',
    'compare --force-share raw.img raw.img',
    'compare -x raw.img raw.img',
    'compare --nonesuch raw.img raw.img',
    'compare -f',
    'compare --object secret,id=a,data=b raw.img raw.img',
    'compare --object nonesuch raw.img raw.img',
    'compare raw.img -s raw.img',
    'compare --image-opts driver=raw driver=raw',
  ],
  { readOnly: true },
);

lines(
  'compare, what cannot be opened or read',
  [
    'compare nothing raw.img',
    'compare raw.img nothing',
    'compare nothing nowhere',
    'compare -p nothing nowhere',
    'compare folder raw.img',
    'compare orphan.qcow2 raw.img',
    'compare raw.img grandchild.qcow2',
    'compare plain.qcow2 bad/l2odd.qcow2',
    'compare bad/l2odd.qcow2 plain.qcow2',
    { line: 'compare plain.qcow2 bad/l2past.qcow2', differs: 'l2-past-end', ours: { code: 3 } },
    { line: 'compare plain.qcow2 bad/cut100k.qcow2', differs: 'l1-past-end', ours: { code: 2 } },
    'compare plain.qcow2 bad/l1reserved.qcow2',
    'compare -s plain.qcow2 bad/corrupt.qcow2',
    { line: 'compare plain.qcow2 v2.qcow2', held: '-f qcow2 plain.qcow2' },
    { line: 'compare v2.qcow2 plain.qcow2', held: '-f qcow2 plain.qcow2' },
    { line: 'compare -U v2.qcow2 plain.qcow2', held: '-f qcow2 plain.qcow2' },
  ] satisfies (string | Row)[],
  { readOnly: true },
);
