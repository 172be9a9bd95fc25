import { lines, type Row } from './harness.ts';
import { liarNames } from './world.ts';

const images =
  'raw.img full.img odd.img empty.img big.img plain.qcow2 v2.qcow2 c512.qcow2 c4k.qcow2 c2m.qcow2 lazy.qcow2 ' +
  'rc1.qcow2 rc64.qcow2 meta.qcow2 full.qcow2 empty.qcow2 packed.qcow2 snap.qcow2 bitmap.qcow2 mid.qcow2 ' +
  'top.qcow2 overraw.qcow2 overv2.qcow2 short.qcow2 dir/clone.qcow2 prefixed.qcow2 link.qcow2 ' +
  'bäh.qcow2 ./with:colon.qcow2';

lines(
  'map',
  images.split(' ').flatMap((name) => [`map ${name}`, `map --output json ${name}`]),
  { readOnly: true },
);

lines(
  'map, a part',
  [
    'map -s 0 top.qcow2',
    'map -s 64k --output=json top.qcow2',
    'map --start-offset=64k --max-length=128k --output=json top.qcow2',
    'map --start 100 --max 1000 --output json top.qcow2',
    'map -s 1 -l 1 --output=json plain.qcow2',
    'map -s 100000 -l 100000 plain.qcow2',
    'map -l 0 --output=json raw.img',
    'map -l 0 raw.img',
    'map -s 1M --output=json raw.img',
    'map -s 1025k --output=json raw.img',
    'map -s 7E --output=json raw.img',
    'map -s 7E -l 1 --output=json raw.img',
    'map -s 1 -l 9223372036854775807 --output=json raw.img',
    'map -l 9223372036854775807 --output=json raw.img',
    'map -s 999 --output=json odd.img',
    'map -s 1001 --output=json odd.img',
    'map -s 511 -l 3 --output=json odd.img',
    'map -s 1.5k --output=json raw.img',
    'map -s 0x200 --output=json raw.img',
    'map -s 0x1k --output=json raw.img',
  ],
  { readOnly: true },
);

lines(
  'map, options',
  [
    'map',
    'map --output=json',
    'map raw.img plain.qcow2',
    'map --output=xml raw.img',
    'map --output raw.img',
    'map --output=human raw.img',
    'map -f raw raw.img',
    'map -f qcow2 raw.img',
    'map -f raw plain.qcow2',
    'map -f raw --output=json plain.qcow2',
    'map -f nonesuch raw.img',
    'map -fraw --output=json raw.img',
    'map -U raw.img',
    'map -Uf qcow2 plain.qcow2',
    'map --force-share plain.qcow2',
    'map -q raw.img',
    'map -x raw.img',
    'map --nonesuch raw.img',
    'map -s',
    'map -s x raw.img',
    'map -s -1 raw.img',
    'map -l 1kk raw.img',
    'map -l 9223372036854775808 raw.img',
    'map --start-offset= raw.img',
    'map --object secret,id=a,data=b raw.img',
    'map --object nonesuch raw.img',
    'map raw.img --output json',
    'map -- raw.img',
    'map --image-opts driver=raw',
  ],
  { readOnly: true },
);

lines(
  'map, what cannot be opened',
  [
    'map nothing',
    'map folder',
    'map dangling.qcow2',
    'map linkloop',
    'map orphan.qcow2',
    'map grandchild.qcow2',
    'map wrongformat.qcow2',
    'map noformat.qcow2',
    "map ''",
    { line: 'map plain.qcow2', held: '-f qcow2 plain.qcow2' },
    { line: 'map -U --output=json plain.qcow2', held: '-f qcow2 plain.qcow2' },
    { line: 'map --output=json top.qcow2', held: '-f qcow2 plain.qcow2' },
    { line: 'map --output=json raw.img', held: '-f raw raw.img' },
    { line: 'map loop1.qcow2', differs: 'backing-loop', ours: { code: 1, stderr: 'infinite loop' } },
  ] satisfies (string | Row)[],
  { readOnly: true },
);

lines(
  'map, lying headers',
  liarNames.map((name): string => `map --output=json ${name}`),
  { readOnly: true },
);
