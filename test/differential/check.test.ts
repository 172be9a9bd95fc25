import { lines, type Row } from './harness.ts';
import { liarNames } from './world.ts';

const images =
  'plain.qcow2 v2.qcow2 c512.qcow2 c4k.qcow2 c2m.qcow2 lazy.qcow2 rc1.qcow2 rc64.qcow2 meta.qcow2 full.qcow2 ' +
  'empty.qcow2 packed.qcow2 snap.qcow2 bitmap.qcow2 mid.qcow2 top.qcow2 overraw.qcow2 short.qcow2 ' +
  'dir/clone.qcow2 link.qcow2';

lines(
  'check',
  images.split(' ').flatMap((name) => [`check ${name}`, `check --output=json ${name}`]),
  { readOnly: true },
);

lines('check, repair of what is sound', [
  ...['plain.qcow2', 'v2.qcow2', 'snap.qcow2', 'top.qcow2', 'packed.qcow2', 'meta.qcow2'].flatMap((name) => [
    `check -r leaks ${name}`,
    `check -r all ${name}`,
    `check -r all --output=json ${name}`,
  ]),
]);

lines(
  'check, options',
  [
    'check',
    'check --output=json',
    'check plain.qcow2 v2.qcow2',
    'check -q plain.qcow2',
    'check -q --output=json plain.qcow2',
    'check --output=xml plain.qcow2',
    'check --output=human plain.qcow2',
    'check -f qcow2 plain.qcow2',
    'check -f raw plain.qcow2',
    'check -f nonesuch plain.qcow2',
    'check -f qcow2 raw.img',
    'check raw.img',
    'check -q raw.img',
    'check --output=json raw.img',
    'check -U plain.qcow2',
    'check -T none plain.qcow2',
    'check -T writeback plain.qcow2',
    'check -T nonesuch plain.qcow2',
    'check -r plain.qcow2',
    'check -r some plain.qcow2',
    'check --repair=some plain.qcow2',
    'check -r',
    'check -p plain.qcow2',
    'check -x plain.qcow2',
    'check --object secret,id=a,data=b plain.qcow2',
    'check plain.qcow2 -q',
    'check -Uq --out json plain.qcow2',
    'check --image-opts driver=qcow2',
  ],
  { readOnly: true },
);

lines('check, what cannot be opened', [
  'check nothing',
  'check folder',
  'check dangling.qcow2',
  'check orphan.qcow2',
  'check grandchild.qcow2',
  'check wrongformat.qcow2',
  { line: 'check plain.qcow2', held: '-f qcow2 plain.qcow2' },
  { line: 'check -U plain.qcow2', held: '-f qcow2 plain.qcow2' },
  { line: 'check -r all plain.qcow2', held: '-f qcow2 plain.qcow2' },
  { line: 'check -r all -U plain.qcow2' },
  { line: 'check loop1.qcow2', differs: 'backing-loop', ours: { code: 1, stderr: 'infinite loop' } },
] satisfies (string | Row)[]);

lines(
  'check, lying headers',
  liarNames.flatMap((name) => [`check ${name}`, `check --output=json ${name}`]),
  { readOnly: true },
);
