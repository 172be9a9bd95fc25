import { lines, type Row } from './harness.ts';

/* Every option of a node that QEMU 7.2 has for `qcow2`, `raw` and `file`: values that can be, and ones that cannot. */

const contents = (line: string): Row => ({ line, files: 'contents' });
const each = (prefix: string, options: Readonly<Record<string, readonly string[]>>) =>
  Object.entries(options).flatMap(([name, values]) => values.map((value) => `${prefix},${name}=${value}`));

const onOff = ['on', 'off', 'bad'];
const common = {
  'cache.direct': onOff,
  'cache.no-flush': onOff,
  'cache.writeback': ['on'],
  discard: ['ignore', 'off', 'unmap', 'on', 'bad'],
  'detect-zeroes': ['off', 'on', 'unmap', 'bad'],
  'read-only': ['on', 'bad'],
  'auto-read-only': onOff,
  'force-share': onOff,
  'node-name': ['a', '1', 'x'.repeat(31), 'x'.repeat(32)],
  'copy-on-read': ['on'],
  werror: ['stop'],
  foo: ['on'],
};
const ofFile = {
  'file.aio': ['threads', 'native', 'io_uring', 'bad'],
  'file.locking': ['auto', 'on', 'off', 'bad'],
  'file.pr-manager': ['x'],
  'file.drop-cache': onOff,
  'file.x-check-cache-dropped': onOff,
  'file.aio-max-batch': ['0', '5', 'bad', '-1', '9223372036854775808'],
  'file.cache.direct': onOff,
  'file.cache.no-flush': ['on', 'bad'],
  'file.discard': ['ignore', 'unmap', 'bad'],
  'file.detect-zeroes': ['on', 'unmap', 'bad'],
  'file.read-only': onOff,
  'file.auto-read-only': ['on', 'bad'],
  'file.force-share': ['on', 'bad'],
  'file.node-name': ['x', 'x y'],
  'file.foo': ['on'],
};
const ofQcow2 = {
  'lazy-refcounts': onOff,
  'pass-discard-request': onOff,
  'pass-discard-snapshot': onOff,
  'pass-discard-other': onOff,
  'discard-no-unref': ['on'],
  'overlap-check': ['none', 'constant', 'cached', 'all', 'bad'],
  'overlap-check.template': ['none', 'all', 'bad'],
  ...Object.fromEntries(
    [
      ...['main-header', 'active-l1', 'active-l2', 'refcount-table', 'refcount-block', 'snapshot-table'],
      ...['inactive-l1', 'inactive-l2', 'bitmap-directory'],
    ].map((name) => [`overlap-check.${name}`, onOff]),
  ),
  'overlap-check.foo': ['on'],
  'cache-size': ['1M', '0', '64k', 'bad', '-1', '10E', '17E'],
  'l2-cache-size': ['1M', '0', '64k', 'bad', '-1', '10E'],
  'l2-cache-entry-size': ['4k', '64k', '128k', '3000', '0', '256', 'bad'],
  'refcount-cache-size': ['1M', '0', '1P', 'bad', '10E'],
  'cache-clean-interval': ['0', '5', '-1', '4294967295', '4294967296', 'bad', '99999999999999999999'],
  'encrypt.format': ['aes'],
  'data-file': ['x'],
  'data-file.filename': ['raw.img'],
  'key-secret': ['x'],
};

lines(
  'options of nodes, reading',
  [
    ...each('map --image-opts driver=qcow2,file.filename=plain.qcow2', { ...common, ...ofFile, ...ofQcow2 }),
    ...each('map --image-opts driver=raw,file.filename=raw.img', {
      ...common,
      ...ofFile,
      ...{ offset: ['0', '512', '2M', 'bad'], size: ['512', '1000', '2M', 'bad'] },
      ...{ 'lazy-refcounts': ['on'], 'data-file': ['x'], 'data-file.filename': ['x'] },
    }),
    ...each('map --image-opts driver=file,filename=raw.img', common),
    ...[
      ...['discard=unmap,detect-zeroes=unmap', 'discard=on,detect-zeroes=unmap'],
      ...['discard=off,detect-zeroes=unmap', 'file.discard=unmap,file.detect-zeroes=unmap'],
      ...['file.discard=ignore,file.detect-zeroes=unmap', 'discard=unmap,file.detect-zeroes=unmap'],
      ...['cache.direct=on,file.aio=native', 'file.cache.direct=on,file.aio=native'],
      ...['cache.direct=on,file.cache.direct=off,file.aio=native'],
      ...['overlap-check=all,overlap-check.template=none', 'overlap-check=all,overlap-check.template=all'],
      ...['cache-size=1M,l2-cache-size=1M,refcount-cache-size=1M', 'cache-size=1M,l2-cache-size=2M'],
      ...['cache-size=1M,refcount-cache-size=2M', 'read-only=on,file.read-only=off'],
      ...['node-name=a,file.node-name=a'],
    ].map((options) => `map --image-opts driver=qcow2,file.filename=plain.qcow2,${options}`),
    'check --image-opts driver=qcow2,file.filename=plain.qcow2,data-file.filename=raw.img',
    'info --image-opts driver=qcow2,file.filename=plain.qcow2,data-file.filename=raw.img',
  ],
  { readOnly: true },
);

const writing = [
  ...['discard=unmap,detect-zeroes=unmap', 'discard=ignore', 'detect-zeroes=on', 'detect-zeroes=unmap'],
  ...['read-only=on', 'read-only=off', 'file.read-only=on', 'auto-read-only=on', 'file.auto-read-only=on'],
  ...['read-only=on,auto-read-only=on', 'read-only=off,file.read-only=on', 'force-share=on'],
  ...['force-share=on,read-only=on', 'file.force-share=on', 'cache.direct=on', 'cache.no-flush=on'],
  ...['file.locking=off', 'lazy-refcounts=on', 'pass-discard-other=on', 'overlap-check=all'],
  ...['overlap-check=none', 'l2-cache-size=64k', 'refcount-cache-size=256k', 'l2-cache-entry-size=4k'],
];

lines('options of nodes, writing', [
  ...writing.flatMap((options) =>
    ['snapshot -c x', 'bench -w -c 3'].map((verb) =>
      contents(`${verb} --image-opts driver=qcow2,file.filename=plain.qcow2,${options}`),
    ),
  ),
  'map --image-opts driver=qcow2,file.filename=plain.qcow2,read-only=off,file.read-only=on',
  'bench -w -c 1 --image-opts driver=qcow2,lazy-refcounts=on,file.filename=v2.qcow2',
  contents('bench -w -c 1 --image-opts driver=qcow2,lazy-refcounts=off,file.filename=lazy.qcow2'),
  ...[
    'detect-zeroes=unmap',
    'detect-zeroes=on',
    'discard=ignore',
    'discard=unmap,detect-zeroes=unmap',
  ].flatMap((options) => [
    contents(`convert -n --target-image-opts plain.qcow2 driver=qcow2,${options},file.filename=v2.qcow2`),
    contents(`convert -n -S 0 --target-image-opts raw.img driver=qcow2,${options},file.filename=full.qcow2`),
    contents(`commit --image-opts driver=qcow2,${options},file.filename=mid.qcow2`),
    contents(`rebase -u -b '' --image-opts driver=qcow2,${options},file.filename=mid.qcow2`),
  ]),
]);
