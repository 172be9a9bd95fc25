import { copyFileSync } from 'node:fs';
import { afterAll } from 'vitest';
import { qemuNbd } from '../nbd/client-support.ts';
import { have, mustRun, tempDir } from '../support/programs.ts';
import { lines } from './harness.ts';

const folder = await tempDir();
const ready = ['qemu-img', 'qemu-io', 'qemu-nbd'].every(have);

async function serve(name: string, args: readonly string[]) {
  return qemuNbd(folder.file(`${name}.sock`), ['-e', '16', ...args]);
}

const servers = ready ? await start() : [];

async function start() {
  const raw = folder.file('disk.raw');
  const qcow2 = folder.file('disk.qcow2');
  const write = (format: string, file: string) =>
    mustRun('qemu-io', ['-f', format, '-c', 'write -P 7 1M 70k', '-c', 'write -P 8 5M 1M', file]);
  await mustRun('qemu-img', ['create', '-q', '-f', 'raw', raw, '9M']);
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', qcow2, '9M']);
  await write('raw', raw);
  await write('qcow2', qcow2);
  copyFileSync(qcow2, folder.file('inside.qcow2'));
  const changed = folder.file('changed.qcow2');
  copyFileSync(qcow2, changed);
  await mustRun('qemu-img', ['bitmap', '--add', '-g', '64k', changed, 'since']);
  await mustRun('qemu-img', ['bitmap', '--add', changed, 'none']);
  await mustRun('qemu-img', ['bitmap', '--disable', changed, 'none']);
  // Data and zeroes are dirty, each beside parts that are not.
  const changes = ['write -P 9 1088k 64k', 'write -z 5M 128k', 'write -P 3 9100k 1k'];
  await mustRun('qemu-io', ['-f', 'qcow2', ...changes.flatMap((one) => ['-c', one]), changed]);
  await mustRun('qemu-img', [
    'create',
    '-q',
    '-f',
    'qcow2',
    '-b',
    changed,
    '-F',
    'qcow2',
    folder.file('top.qcow2'),
  ]);
  await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 4 3M 64k', folder.file('top.qcow2')]);
  return [
    await serve('raw', ['-r', '-f', 'raw', '-x', 'disk', raw]),
    // What lies inside the export is an image itself,
    await serve('inside', ['-f', 'raw', folder.file('inside.qcow2')]),
    // and here the server opens it.
    await serve('guest', ['-f', 'qcow2', qcow2]),
    await serve('changed', ['-r', '-f', 'qcow2', '-B', 'since', '-B', 'none', '-x', 'disk', changed]),
    await serve('depth', ['-r', '-f', 'qcow2', '-A', folder.file('top.qcow2')]),
  ];
}

afterAll(async () => {
  for (const server of servers) await server[Symbol.asyncDispose]();
  await folder.remove();
});

const path = (name: string) => folder.file(`${name}.sock`);
const raw = `nbd+unix:///disk?socket=${path('raw')}`;
const inside = `nbd+unix:///?socket=${path('inside')}`;
const guest = `nbd:unix:${path('guest')}`;
const changed = `driver=nbd,path=${path('changed')},export=disk`;
const since = `${changed},x-dirty-bitmap=qemu:dirty-bitmap:since`;
const none = `${changed},x-dirty-bitmap=qemu:dirty-bitmap:none`;
const depth = `driver=nbd,path=${path('depth')},x-dirty-bitmap=qemu:allocation-depth`;
const long = `${changed},x-dirty-bitmap=${'b'.repeat(4097)}`;

lines(
  'names of NBD exports that lead nowhere',
  [
    'info nbd:',
    'info nbd:localhost',
    'info nbd:localhost:1',
    'info nbd:localhost:1:exportname=x',
    'info nbd:localhost:abc',
    'info nbd:localhost:10:foo=bar',
    'info nbd:unix:none.sock',
    'info nbd:unix:none.sock:exportname=a',
    'info nbd://localhost:1',
    'info nbd://localhost:1/x',
    'info nbd+tcp://localhost:1/x',
    'info nbd://localhost:1/x?y=1',
    'info nbd:///x',
    'info nbd+unix:///x',
    'info nbd+unix://host/x?socket=y',
    'info nbd+unix:///x?path=y',
    'info nbd+unix:///x?socket=none.sock',
    'info --image-opts driver=nbd',
    'info --image-opts driver=nbd,port=1',
    'info --image-opts driver=nbd,host=localhost,port=1',
    'info --image-opts driver=nbd,host=localhost,path=x',
    'info --image-opts driver=nbd,path=x,port=1',
    'info --image-opts driver=nbd,path=x,server.type=unix',
    'info --image-opts driver=nbd,server.type=unix',
    'info --image-opts driver=nbd,server.type=bla',
    'info --image-opts driver=nbd,server.path=x',
    'info --image-opts driver=nbd,server.type=inet,server.host=localhost',
    'info --image-opts driver=nbd,server.type=unix,server.path=x,server.y=1',
    'info --image-opts driver=nbd,path=x,reconnect-delay=abc',
    'info --image-opts driver=nbd,path=x,tls-creds=t',
    'info --image-opts driver=nbd,path=x,tls-hostname=t',
    `info 'json:{"driver":"nbd","server":{"type":"unix","path":"none.sock"}}'`,
    {
      line: 'info nbds://localhost:1/x',
      differs: 'nbds',
      ours: { code: 1, stderr: "Failed to connect to 'localhost:1': Connection refused" },
    },
    'info --image-opts driver=nbd,path=x,x-dirty-bitmap=b',
  ],
  { readOnly: true },
);

if (ready) {
  lines(
    'NBD exports, read',
    [
      `info ${raw}`,
      `info --output=json ${raw}`,
      `info ${inside}`,
      `info --output=json ${inside}`,
      `info -f raw ${inside}`,
      `info ${guest}`,
      `info --output json ${guest}`,
      `info nbd:unix:${path('raw')}:exportname=disk`,
      `info nbd:unix:${path('raw')}:exportname=other`,
      `info nbd+unix:///other?socket=${path('raw')}`,
      `info --image-opts driver=nbd,path=${path('raw')},export=disk`,
      `info --image-opts driver=nbd,path=${path('raw')},export=disk,foo=1`,
      `info --image-opts driver=raw,file.driver=nbd,file.path=${path('raw')},file.export=disk,offset=1M`,
      `info --image-opts driver=qcow2,file.driver=nbd,file.server.type=unix,file.server.path=${path('inside')}`,
      `info 'json:{"driver":"qcow2","file":{"driver":"nbd","server":{"type":"unix","path":"${path('inside')}"}}}'`,
      `info --backing-chain ${inside}`,
      `map ${raw}`,
      `map --output json ${raw}`,
      `map --output json ${inside}`,
      `map --output json ${guest}`,
      `map -f raw --output json ${guest}`,
      `compare ${raw} ${inside}`,
      `compare ${raw} ${guest}`,
      `compare ${inside} ${guest}`,
      `compare ${guest} plain.qcow2`,
      `check ${inside}`,
      `check ${raw}`,
      `measure -O qcow2 ${raw}`,
      `measure -O qcow2 ${inside}`,
      `snapshot -l ${inside}`,
      `resize -f raw ${guest} 20M`,
      `resize -f raw --shrink ${guest} 2M`,
      `convert -n -O raw raw.img ${raw}`,
    ],
    { readOnly: true },
  );

  lines(
    'what an NBD server says of bitmaps and depths',
    [
      ...[since, none, depth].flatMap((of) => [
        `map --output json --image-opts ${of}`,
        `map --image-opts ${of}`,
        `info --image-opts ${of}`,
      ]),
      `map --output json --start-offset 1100k --max-length 5M --image-opts ${since}`,
      `map --output json --image-opts driver=raw,offset=1M,size=6M,file.${since.replaceAll(',', ',file.')}`,
      // Nodes that hand on what the one below them says.
      `map --output json --image-opts driver=raw,file.driver=raw,file.${since.replaceAll('driver=', 'file.driver=').replaceAll(/,/g, ',file.file.')}`,
      `map --output json 'json:{"driver":"raw","file":{"driver":"nbd","export":"disk","server":{"type":"unix","path":"${path('changed')}"},"x-dirty-bitmap":"qemu:dirty-bitmap:since"}}'`,
      {
        line: `map --image-opts ${changed},x-dirty-bitmap=qemu:dirty-bitmap:other`,
        differs: 'nbd-dirty-bitmap',
        ours: { code: 1, stderr: "The export has no 'qemu:dirty-bitmap:other' (x-dirty-bitmap)" },
      },
      `map --image-opts ${long}`,
      {
        line: `compare --image-opts ${since} ${changed}`,
        differs: 'nbd-dirty-bitmap',
        ours: { code: 0, stdout: 'Images are identical.\n' },
      },
      {
        line: `compare --image-opts ${depth} driver=nbd,path=${path('depth')}`,
        differs: 'nbd-dirty-bitmap',
        ours: { code: 0, stdout: 'Images are identical.\n' },
      },
    ],
    { readOnly: true },
  );

  lines('NBD exports, as sources and backing files', [
    `convert -O raw ${raw} new.raw`,
    { line: `convert -O qcow2 ${inside} new.qcow2`, files: 'contents' },
    `dd -O raw if=${raw} of=new.raw bs=1M count=3`,
    `create -f qcow2 -b ${raw} -F raw new.qcow2`,
    `create -f qcow2 -b ${inside} -F qcow2 new.qcow2`,
    `create -f qcow2 -b nbd+unix:///other?socket=${path('raw')} -F raw new.qcow2`,
  ]);
}
