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
  return [
    await serve('raw', ['-r', '-f', 'raw', '-x', 'disk', raw]),
    // What lies inside the export is an image itself,
    await serve('inside', ['-f', 'raw', folder.file('inside.qcow2')]),
    // and here the server opens it.
    await serve('guest', ['-f', 'qcow2', qcow2]),
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
    {
      line: 'info --image-opts driver=nbd,path=x,x-dirty-bitmap=b',
      differs: 'nbd-dirty-bitmap',
      ours: { code: 1, stderr: "The option 'x-dirty-bitmap' of nbd is not supported" },
    },
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

  lines('NBD exports, as sources and backing files', [
    `convert -O raw ${raw} new.raw`,
    { line: `convert -O qcow2 ${inside} new.qcow2`, files: 'contents' },
    `dd -O raw if=${raw} of=new.raw bs=1M count=3`,
    `create -f qcow2 -b ${raw} -F raw new.qcow2`,
    `create -f qcow2 -b ${inside} -F qcow2 new.qcow2`,
    `create -f qcow2 -b nbd+unix:///other?socket=${path('raw')} -F raw new.qcow2`,
  ]);
}
