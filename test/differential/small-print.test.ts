import { lines, type Row } from './harness.ts';

const changed = (line: string): Row => ({ line, files: 'contents' });
const modes = ['none', 'off', 'writeback', 'writethrough', 'directsync', 'unsafe', 'Writeback', '', 'none,'];

lines('words after --, clusters of letters, joined arguments', [
  'create -qfqcow2 new.qcow2 1M',
  'create -fqcow2 -q -- new.qcow2 1M',
  'create -f qcow2 -- -q 1M',
  'create -q -f raw -- --help 1M',
  'create -qfqcow2 -ocluster_size=4k,compat=1.1 new.qcow2 1M',
  'create new.img -q 1M',
  'create -fqcow2 -bplain.qcow2 -Fqcow2 -q new.qcow2',
  'create -q -u -fqcow2 -bnothing -Fraw new.qcow2 1M',
  'resize -qfraw raw.img 2M',
  'resize -fraw -- raw.img +1M',
  'resize -q --shrink -fraw raw.img -- -512k',
  changed('commit -qfqcow2 mid.qcow2'),
  changed('commit -qdfqcow2 -tnone mid.qcow2'),
  changed('commit -qbplain.qcow2 mid.qcow2'),
  changed('commit -q -- mid.qcow2'),
  changed('rebase -qbraw.img -Fraw mid.qcow2'),
  changed('rebase -qufqcow2 -braw.img -Fraw -- mid.qcow2'),
  changed('rebase mid.qcow2 -b raw.img -F raw -q'),
  changed('amend -qfqcow2 -ocompat=0.10 plain.qcow2'),
  changed('amend plain.qcow2 -o compat=0.10'),
  changed('amend -ocompat=1.1 -olazy_refcounts=on -- plain.qcow2'),
  'dd -Oraw -fraw -- if=raw.img of=new.img',
  'dd if=raw.img -Oraw of=new.img',
  changed('dd -Uf raw -Oqcow2 if=raw.img of=new.qcow2'),
]);

lines(
  'words after --, reading',
  [
    'info -fraw raw.img',
    'info -Ufqcow2 -- plain.qcow2',
    'info --out=json -- plain.qcow2',
    'info -- -U',
    'map -Ufqcow2 plain.qcow2',
    'map --output=json --start=64k --max=64k -- plain.qcow2',
    'check -qfqcow2 plain.qcow2',
    'check -Tnone -- plain.qcow2',
    'compare -qsfraw -Fraw raw.img raw.img',
    'compare -spU -- raw.img full.img',
    'measure -Oqcow2 -fraw -- raw.img',
    'measure -Oqcow2 -ocluster_size=4k --size=1G',
    'measure --si 1G',
    'measure --s 1G --out json',
    'bench -qc5 -d2 -s512 -S1k -o512 -fraw -- raw.img',
    'bench --flush 10 raw.img',
    'snapshot -lq snap.qcow2',
    'snapshot -Ul -- snap.qcow2',
  ],
  { readOnly: true },
);

lines(
  'cache modes',
  modes.flatMap((mode) => [
    `check -T '${mode}' plain.qcow2`,
    `compare -T '${mode}' raw.img raw.img`,
    `bench -c 2 -t '${mode}' plain.qcow2`,
  ]),
  { readOnly: true },
);

lines(
  'cache modes, writing',
  modes.flatMap((mode) => [
    changed(`commit -t '${mode}' mid.qcow2`),
    changed(`rebase -t '${mode}' -b raw.img -F raw mid.qcow2`),
    changed(`rebase -T '${mode}' -b raw.img -F raw mid.qcow2`),
    changed(`amend -t '${mode}' -o compat=0.10 plain.qcow2`),
    `convert -T '${mode}' raw.img new.img`,
  ]),
);

lines(
  'cache modes of a target',
  modes.map(
    (mode): Row =>
      ['Writeback', '', 'none,'].includes(mode)
        ? { line: `convert -t '${mode}' raw.img new.img`, filesDiffer: 'failed-create' }
        : { line: `convert -t '${mode}' raw.img new.img` },
  ),
);

lines('options of files', [
  'create -o nocow=on new.img 1M',
  'create -o nocow=off new.img 1M',
  'create -o extent_size_hint=1M new.img 1M',
  'create -o extent_size_hint=0 new.img 1M',
  'create -o extent_size_hint=4G new.img 1M',
  'create -o extent_size_hint=abc new.img 1M',
  'create -f qcow2 -o nocow=on,extent_size_hint=64k new.qcow2 1M',
  'convert -o nocow=on raw.img new.img',
  changed('convert -O qcow2 -o extent_size_hint=1M raw.img new.qcow2'),
  'convert -O qcow2 -o help',
  'convert -O raw -o help',
  "convert -O qcow2 -o '?'",
  'create -o nocow,size=1M new.img',
  'create -o nonocow,size=1M new.img',
]);
