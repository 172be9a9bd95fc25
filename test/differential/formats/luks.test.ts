import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe } from 'vitest';
import { have, mustRun } from '../../support/programs.ts';
import { lines, type Row } from '../harness.ts';
import { patch } from '../world.ts';

/*
 * Not `formatLines`: qemu-img needs seconds for every header that it makes, since it measures its iterations by CPU time.
 * So cryptsetup makes the images, and what qemu-img makes itself is a few lines; more of them with COWHERD_LONG=1.
 */

const long = process.env.COWHERD_LONG === '1';

/** `b64` is the same as `s`, `w` fits nowhere. */
const objects =
  '--object secret,id=s,data=x --object secret,id=w,data=wrong --object secret,id=n,data=new ' +
  '--object secret,id=b64,data=eA==,format=base64';
const named = (path: string, secret = 's') =>
  `--image-opts driver=luks,file.filename=${path},key-secret=${secret}`;

/** Puts the objects after the verb. */
const withObjects = (row: string | Row): Row => {
  const { line, ...rest } = typeof row === 'string' ? { line: row } : row;
  return { ...rest, line: line.replace(/^\S+/, (verb) => `${verb} ${objects}`) };
};

/** Headers that lie: bytes that are put over those of `plain`. */
const big = (value: number) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255);
const text = (value: string) => [...Buffer.from(`${value}\0`)];
const liars: Readonly<Record<string, readonly [number, readonly number[]]>> = {
  stripes: [252, big(2 ** 31)],
  'no-stripes': [252, big(0)],
  overlap: [296, big(8)],
  'over-header': [248, big(0)],
  'no-iterations': [212, big(0)],
  'no-digest': [164, big(0)],
  'key-bytes': [108, big(7)],
  payload: [104, big(1)],
  'in-slots': [104, big(300)],
  cipher: [8, text('blowfish')],
  mode: [40, text('xts')],
  generator: [40, text('xts-random')],
  'no-essiv-hash': [40, text('cbc-essiv')],
  hash: [72, text('md4')],
  unended: [40, Array(32).fill(97)],
  state: [208, big(7)],
  version: [6, [0, 9]],
  magic: [0, [0]],
};

const images = {
  plain: 'aes-xts-plain64',
  essiv: 'aes-cbc-essiv:sha256',
  plain32: 'aes-xts-plain',
} as const;

async function world(path: string): Promise<void> {
  await mkdir(path);
  for (const [name, cipher] of Object.entries(images)) {
    const file = join(path, name);
    await writeFile(file, '');
    await truncate(file, 4 * 1024 * 1024);
    const how = ['--type', 'luks1', '--cipher', cipher, '--key-size', '256', '--hash', 'sha256', '-d', '-'];
    await mustRun('cryptsetup', ['luksFormat', '-q', ...how, '--pbkdf-force-iterations', '1000', file], {
      input: 'x',
    });
    const filling = ['write -P 1 0 64k', 'write -P 2 1M 5k', 'write -z 512k 4k', 'write -P 3 70001 13'];
    const io = ['--object', 'secret,id=s,data=x', ...filling.flatMap((line) => ['-c', line])];
    await mustRun('qemu-io', [...io, ...named(file).split(' ')]);
  }
  await mustRun('cp', ['plain', 'two'], { cwd: path });
  await writeFile(join(path, 'new-key'), 'new');
  await mustRun(
    'cryptsetup',
    ['luksAddKey', '-q', '--pbkdf-force-iterations', '1000', '-d', '-', 'two', 'new-key'],
    { cwd: path, input: 'x' },
  );
  await writeFile(join(path, 'two2'), '');
  await truncate(join(path, 'two2'), 17 * 1024 * 1024);
  const newer = [
    '--type',
    'luks2',
    '--pbkdf',
    'pbkdf2',
    '--pbkdf-force-iterations',
    '1000',
    '-d',
    '-',
    'two2',
  ];
  await mustRun('cryptsetup', ['luksFormat', '-q', ...newer], { cwd: path, input: 'x' });
  await writeFile(join(path, 'raw.img'), new Uint8Array(1024 * 1024).fill(7, 5000, 600_000));
  for (const [liar, [at, bytes]] of Object.entries(liars)) {
    await mustRun('cp', ['plain', `bad-${liar}`], { cwd: path });
    await patch(path, `bad-${liar}`, at, [...bytes]);
  }
  await mustRun('cp', ['plain', 'short'], { cwd: path });
  await truncate(join(path, 'short'), 500);
}

const reading: (string | Row)[] = [
  ...Object.keys(images).flatMap((name) => [
    `info ${name}`,
    `info --output=json ${named(name)}`,
    `map --output=json ${named(name)}`,
    `compare ${named(name)} driver=luks,file.filename=plain,key-secret=s`,
  ]),
  'info --output=json two',
  'info -f luks plain',
  `info ${named('plain', 'w')}`,
  `map ${named('plain')}`,
  `map ${named('plain', 'w')}`,
  `map ${named('plain', 'nobody')}`,
  `map ${named('plain', 'b64')}`,
  `map ${named('two', 'n')}`,
  'map plain',
  'map -f luks plain',
  `map --output=json ${named('plain')},nonsense=1`,
  `compare ${named('plain', 'w')} driver=raw,file.filename=raw.img`,
  `check ${named('plain')}`,
  {
    line: `check ${named('plain', 'w')}`,
    differs: 'check-without-key',
    ours: { code: 63, stderr: 'This image format does not support checks' },
  },
  `measure -O raw ${named('plain')}`,
  `measure -O qcow2 ${named('plain')}`,
  `measure -O qcow2 ${named('plain', 'w')}`,
  'measure -O luks --size 1G',
  'measure -O luks -o key-secret=nobody --size 1G',
  'measure --output=json -O luks -o key-secret=s,cipher-alg=aes-128 --size 1001',
  'measure -O luks -o key-secret=s,cipher-alg=rot13 --size 1M',
  'measure -O luks -o key-secret=s,hash-alg=crc32 --size 1M',
  'measure -O luks -o help --size 1M',
  { line: 'create -f luks -o help', differs: 'luks-detached', ours: { code: 0, stdout: 'detached-header=' } },
  {
    line: 'convert -O luks -o help',
    differs: 'luks-detached',
    ours: { code: 0, stdout: 'detached-header=' },
  },
  'amend -f luks -o help',
  {
    line: `map ${named('two')},header.filename=plain`,
    differs: 'luks-detached',
    ours: { code: 1, stderr: 'contains external, encrypted' },
  },
  'info two2',
  {
    line: `info --output=json ${named('two2')}`,
    differs: 'luks2',
    ours: { code: 0, stdout: '"version": 2' },
  },
  {
    line: `map ${named('two2')}`,
    differs: 'luks2',
    ours: { code: 1, stderr: 'contains external, encrypted' },
  },
  `snapshot -l ${named('plain')}`,
  `bench -c 3 ${named('plain')}`,
  {
    line: `map ${named('plain')}`,
    held: '-f raw plain',
    differs: 'luks-locks',
    ours: { code: 1, stderr: 'Failed to get' },
  },
  { line: `info -U ${named('plain')}`, held: '-f raw plain' },
  'info --object secret,id=t,file=$PWD/new-key two',
  'info --object secret,id=t,file=$PWD/nothing plain',
  'info --object secret,id=t plain',
  'info --object secret,id=t,data=y,format=hex plain',
  'info --object secret,id=t,data=!!,format=base64 plain',
  'info --object secret,id=t,data=y,file=y plain',
  'info --object secret,id=t,data=y,keyid=nobody plain',
  'info --object secret,data=y plain',
  'info --object secret,id=s,data=y plain',
  'info --object secret,id=s,data=y,oops=1 plain',
  ...[...Object.keys(liars).map((liar) => `bad-${liar}`), 'short', 'raw.img'].flatMap((file) => [
    `info -f luks ${file}`,
    `map ${named(file)}`,
  ]),
];

/** What changes a header has random bytes in it. */
const changed: Partial<Row> = { files: 'info' };

const amending: (string | Row)[] = [
  ...[
    'state=active,new-secret=n,keyslot=0',
    'state=active,new-secret=n,keyslot=8',
    'state=active,new-secret=nobody',
    'state=active',
    'state=active,new-secret=n,old-secret=s',
    'state=inactive',
    'state=inactive,old-secret=s',
    'state=inactive,old-secret=w',
    'state=inactive,old-secret=nobody',
    'state=inactive,keyslot=0',
    'state=inactive,keyslot=1',
    'state=inactive,keyslot=9',
    'state=inactive,keyslot=0,old-secret=w',
    'state=inactive,keyslot=0,old-secret=s',
    'state=inactive,keyslot=0,new-secret=n',
    'state=inactive,keyslot=0,iter-time=10',
    'state=maybe',
    'new-secret=n',
    'cipher-alg=aes-128',
    'nonesuch=1',
  ].map((list) => `amend -o ${list} ${named('plain')}`),
  ...[
    'state=inactive,old-secret=s',
    'state=inactive,old-secret=n',
    'state=inactive,keyslot=0',
    'state=inactive,keyslot=1,old-secret=n',
    'state=inactive,keyslot=1,old-secret=s',
  ].map((list): Row => ({ line: `amend -o ${list} ${named('two')}`, ...changed })),
  { line: `amend -o state=active,new-secret=b64,keyslot=5,iter-time=10 ${named('two', 'n')}`, ...changed },
  { line: `amend --force -o state=inactive,keyslot=0 ${named('plain')}`, ...changed },
  { line: `amend --force -o state=inactive,old-secret=s ${named('plain')}`, ...changed },
  { line: `amend --force -o state=inactive,keyslot=3 ${named('plain')}`, ...changed },
  `amend -o state=active,new-secret=n ${named('plain', 'w')}`,
  'amend -o state=active,new-secret=n --image-opts driver=luks,file.filename=plain',
  'amend -f luks -o state=active,new-secret=n plain',
];

const writing: (string | Row)[] = [
  `convert ${named('plain')} -O raw new`,
  `convert -S 0 ${named('essiv')} -O raw new`,
  `convert -W -m 4 ${named('plain32')} -O raw new`,
  { line: `convert ${named('plain')} -O qcow2 new`, files: 'contents' },
  `convert ${named('plain', 'w')} -O raw new`,
  'convert -f luks -O raw plain new',
  'convert -O luks raw.img new',
  `convert -n raw.img --target-image-opts driver=luks,file.filename=plain,key-secret=s`,
  `convert -n raw.img --target-image-opts driver=luks,file.filename=plain,key-secret=w`,
  `dd -O raw --image-opts if=driver=luks,file.filename=plain,key-secret=s of=new bs=64k skip=1 count=9`,
  `resize --shrink ${named('plain')} 1M`,
  `resize ${named('plain')} 1M`,
  `resize ${named('plain')} 2M`,
  `resize --preallocation=metadata ${named('plain')} 3M`,
  `resize ${named('plain', 'w')} 3M`,
  `check -r all ${named('plain')}`,
  `commit ${named('plain')}`,
  `rebase -u -b '' ${named('plain')}`,
  `snapshot -c a ${named('plain')}`,
  `bench -w -c 3 ${named('plain')}`,
  {
    line: `resize ${named('plain')} 3M`,
    held: '-f raw plain',
    differs: 'luks-locks',
    ours: { code: 1, stderr: 'Failed to get' },
  },
  'create -f luks new 1M',
  'create -f luks -o key-secret=nobody new 1M',
  ...[
    'cipher-alg=rot13',
    'cipher-mode=none',
    'ivgen-alg=x',
    'ivgen-hash-alg=crc32',
    'hash-alg=crc32',
    'iter-time=x',
    'preallocation=x',
    'nonesuch=1',
  ].map(
    (list): Row => ({
      line: `create -f luks -o key-secret=s,${list} new 1M`,
      filesDifferIfRefused: 'failed-create',
    }),
  ),
];

const fresh = { ...changed, format: 'luks' };
const making: Row[] = [
  { line: 'create -f luks -o key-secret=s,iter-time=10 new 1M', ...fresh },
  ...(long
    ? [
        'create -f luks -o key-secret=s,iter-time=10 new 1000',
        'create -f luks -o key-secret=s,iter-time=10,size=1M new',
        'create -f luks -o key-secret=s,iter-time=10,preallocation=full new 1M',
        'create -f luks -o key-secret=s,iter-time=10,cipher-alg=aes-192,hash-alg=sha512 new 1M',
        'create -f luks -o key-secret=s,iter-time=10,cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha1 new 1M',
        'create -f luks -o key-secret=s,iter-time=10,ivgen-alg=plain,hash-alg=ripemd160 new 1M',
        'convert -O luks -o key-secret=s,iter-time=10,cipher-alg=aes-128 raw.img new',
        'convert -n -O luks -o key-secret=s raw.img plain',
      ].map((line) => ({ line, ...fresh }))
    : []),
];

const volatile = ['uuid', 'iters', 'master-key-iters'];

describe.skipIf(!have('cryptsetup'))('LUKS as qemu-img has it', () => {
  lines('luks: reading', reading.map(withObjects), { world, readOnly: true });
  lines('luks: key slots', amending.map(withObjects), { world, volatile });
  lines('luks: writing', writing.map(withObjects), { world });
  lines('luks: making', making.map(withObjects), { world, volatile });
});
