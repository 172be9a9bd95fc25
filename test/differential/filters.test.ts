import { lines, type Row } from './harness.ts';

/* Filters over an image: each verb finds the image beneath, as in QEMU. */

const group = '--object throttle-group,id=g';
const packing = (name: string) => `driver=compress,file.driver=qcow2,file.file.filename=${name}`;
const slowed = (name: string) =>
  `driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename=${name} ${group}`;
const reading = (name: string) => `driver=copy-on-read,file.driver=qcow2,file.file.filename=${name}`;
const plain = (name: string) => `driver=raw,file.driver=qcow2,file.file.filename=${name}`;
const windowed = (name: string) => `driver=raw,offset=512,file.driver=qcow2,file.file.filename=${name}`;
const debugged = (name: string) => `driver=blkdebug,image.driver=qcow2,image.file.filename=${name}`;

const contents = (line: string): Row => ({ line, files: 'contents' });
/** qemu-img fails where something is stored already; ours is looked at in test/nodes/compress.test.ts. */
const packedOver = (line: string): Row => ({ line, differs: 'packed-over-data', ours: { code: 0 } });

lines(
  'filters, reading',
  [packing, slowed, reading, plain].flatMap((over) => [
    `snapshot -l --image-opts ${over('snap.qcow2')}`,
    `info --image-opts ${over('snap.qcow2')}`,
    `info --output=json --image-opts ${over('snap.qcow2')}`,
    `check --image-opts ${over('snap.qcow2')}`,
    `measure -O qcow2 --image-opts ${over('snap.qcow2')}`,
    ...(over === plain ? [] : [`map --output=json --image-opts ${over('snap.qcow2')}`]),
  ]),
  { readOnly: true },
);

lines('filters, changing', [
  ...[
    'snapshot -c x',
    'snapshot -a first',
    'snapshot -d first',
    'snapshot -a none',
    'snapshot -d none',
  ].flatMap((action) =>
    [packing, slowed, plain, windowed].map((over) =>
      contents(`${action} --image-opts ${over('snap.qcow2')}`),
    ),
  ),
  contents(`snapshot -a first --image-opts ${packing('bitmap.qcow2')}`),
  `snapshot -c x --image-opts driver=throttle,throttle-group=g,file.driver=raw,file.file.filename=raw.img ${group}`,
  `snapshot -a x --image-opts driver=throttle,throttle-group=g,file.driver=raw,file.file.filename=raw.img ${group}`,
  `snapshot -d x --image-opts driver=throttle,throttle-group=g,file.driver=raw,file.file.filename=raw.img ${group}`,
  ...[packing, slowed, reading].flatMap((over) => [
    contents(`commit --image-opts ${over('mid.qcow2')}`),
    contents(`commit -d --image-opts ${over('mid.qcow2')}`),
    contents(`commit -b plain.qcow2 --image-opts ${over('top.qcow2')}`),
    contents(`rebase -u -b plain.qcow2 -F qcow2 --image-opts ${over('top.qcow2')}`),
    contents(`rebase -b $PWD/plain.qcow2 -F qcow2 --image-opts ${over('top.qcow2')}`),
    contents(`rebase -b '' --image-opts ${over('top.qcow2')}`),
    `rebase -b plain.qcow2 -F qcow2 --image-opts ${over('top.qcow2')}`,
    `rebase -b none.qcow2 --image-opts ${over('top.qcow2')}`,
    contents(`resize --image-opts ${over('plain.qcow2')} 8M`),
  ]),
  `commit --image-opts ${plain('mid.qcow2')}`,
  `commit --image-opts ${packing('plain.qcow2')}`,
  contents(
    'rebase -b plain.qcow2 -F qcow2 --image-opts driver=qcow2,l2-cache-size=64k,file.filename=top.qcow2',
  ),
  `rebase -b plain.qcow2 --image-opts driver=qcow2,file.driver=throttle,file.throttle-group=g,file.file.filename=top.qcow2 ${group}`,
]);

lines('writing through compress', [
  ...[packing, slowed, reading].flatMap((over) => [
    contents(`convert -n --target-is-zero --target-image-opts raw.img ${over('lazy.qcow2')}`),
    contents(`convert -n --target-is-zero -c --target-image-opts full.img ${over('lazy.qcow2')}`),
  ]),
  contents('convert -n --target-is-zero -c -O qcow2 raw.img lazy.qcow2'),
  contents(`convert -n --target-image-opts full.img ${slowed('plain.qcow2')}`),
  contents(`convert -n --target-image-opts full.img ${packing('lazy.qcow2')}`),
  contents(`bench -w -c 1 -s 64k --image-opts ${packing('top.qcow2')}`),
  contents(`bench -w -c 1 -s 4k --image-opts ${packing('lazy.qcow2')}`),
  packedOver(`bench -w -c 2 -d 1 -s 4k --image-opts ${packing('lazy.qcow2')}`),
  ...['plain', 'c512', 'c2m', 'packed', 'snap', 'lazy', 'mid'].map((name) =>
    packedOver(`convert -n --target-image-opts raw.img ${packing(`${name}.qcow2`)}`),
  ),
  packedOver(`convert -n -c --target-image-opts raw.img ${slowed('plain.qcow2')}`),
  contents(`snapshot -c x --image-opts ${debugged('snap.qcow2')}`),
  `snapshot -l --image-opts ${debugged('snap.qcow2')}`,
  packedOver('convert -n -c -O qcow2 raw.img plain.qcow2'),
  packedOver('convert -n -c --target-image-opts raw.img driver=qcow2,file.filename=plain.qcow2'),
  `convert -n --target-image-opts raw.img ${packing('empty.qcow2')}`,
  'convert -n --target-image-opts raw.img driver=compress,file.driver=raw,file.file.filename=big.img',
  'convert -n --target-image-opts raw.img driver=compress,file.filename=plain.qcow2',
  'convert -n --target-image-opts raw.img driver=compress,file.driver=compress,file.file.driver=qcow2,file.file.file.filename=plain.qcow2',
]);
