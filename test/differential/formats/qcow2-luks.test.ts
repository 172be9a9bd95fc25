import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe } from 'vitest';
import { have, mustRun } from '../../support/programs.ts';
import { lines, type Row } from '../harness.ts';

/*
 * LUKS inside qcow2. qemu-img needs seconds for every header that it makes, so that one image is made, by it, and copied.
 */

const objects = '--object secret,id=s,data=x --object secret,id=w,data=wrong --object secret,id=n,data=new';
const named = (path: string, secret = 's', more = '') =>
  `--image-opts driver=qcow2,file.filename=${path},encrypt.format=luks,encrypt.key-secret=${secret}${more}`;
/** An overlay of a key of its own. */
const chained = (path: string) =>
  named(path, 'n', ',backing.encrypt.format=luks,backing.encrypt.key-secret=s');

/** Puts the objects after the verb. */
const withObjects = (row: string | Row): Row => {
  const { line, ...rest } = typeof row === 'string' ? { line: row } : row;
  return { ...rest, line: line.replace(/^\S+/, (verb) => `${verb} ${objects}`) };
};

async function world(path: string): Promise<void> {
  await mkdir(path);
  const must = (program: string, line: string) => mustRun(program, line.split(' '), { cwd: path });
  const quick = 'encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=';
  await must('qemu-img', `create -q ${objects} -f qcow2 -o ${quick}s base 4M`);
  const filling = ['write -P 1 0 64k', 'write -P 2 1M 5k', 'write -z 512k 64k', 'write -P 3 70001 13'];
  const io = (options: string, commands: readonly string[]) =>
    mustRun('qemu-io', [...`${objects} ${options}`.split(' '), ...commands.flatMap((one) => ['-c', one])], {
      cwd: path,
    });
  await io(named('base'), filling);
  await must('qemu-img', `create -q ${objects} -f qcow2 -b base -F qcow2 -u -o ${quick}n over 4M`);
  await io(chained('over'), ['write -P 4 100k 3k']);
  await must('qemu-img', 'create -q -f qcow2 plain 4M');
  await must('qemu-img', 'create -q -f qcow2 -b base -F qcow2 -u bare 4M');
  await writeFile(join(path, 'raw.img'), new Uint8Array(1024 * 1024).fill(7, 5000, 600_000));
}

const creating = (list: string): Row => ({
  line: `create -f qcow2 -o ${list} new 1M`,
  filesDifferIfRefused: 'failed-create',
});

const reading: (string | Row)[] = [
  'info base',
  'info --output=json base',
  `info --output=json ${named('base')}`,
  'info --backing-chain over',
  'map base',
  `map --output=json ${named('base')}`,
  `map --output=json ${named('base', 'w')}`,
  `map --output=json ${named('base', 'nobody')}`,
  `map --output=json ${chained('over')}`,
  `map --output=json ${named('over', 'n')}`,
  'map --output=json --image-opts driver=qcow2,file.filename=base,encrypt.format=aes,encrypt.key-secret=s',
  'map --output=json --image-opts driver=qcow2,file.filename=base,encrypt.key-secret=s',
  `map --output=json ${named('plain')}`,
  `check ${named('base')}`,
  `check --output=json ${named('base')}`,
  { line: 'check base', differs: 'check-without-key', ours: { code: 0, stdout: 'No errors were found' } },
  `compare ${named('base')} driver=qcow2,file.filename=over,encrypt.key-secret=n,backing.encrypt.key-secret=s`,
  `compare ${named('base')} driver=qcow2,file.filename=bare,backing.encrypt.key-secret=s`,
  `measure -O raw ${named('base')}`,
  `measure --output=json -O qcow2 ${named('base')}`,
  'measure -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s --size 1G',
  'measure -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=aes-128 --size 1G',
  'measure -O qcow2 -o encrypt.format=luks --size 1G',
  'measure -O qcow2 -o encrypt.key-secret=s --size 1G',
  `bench -c 3 ${named('base')}`,
  `snapshot -l ${named('base')}`,
];

/** What changes a header has random bytes in it. */
const changed: Partial<Row> = { files: 'info' };

const amending: (string | Row)[] = [
  ...[
    'encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=0',
    'encrypt.state=active',
    'encrypt.state=active,encrypt.new-secret=nobody',
    'encrypt.state=inactive',
    'encrypt.state=inactive,encrypt.old-secret=s',
    'encrypt.state=inactive,encrypt.old-secret=w',
    'encrypt.state=inactive,encrypt.keyslot=0',
    'encrypt.state=inactive,encrypt.keyslot=9',
    'encrypt.new-secret=n',
    'encrypt.cipher-alg=aes-128',
    'encrypt.format=luks',
  ].map((list) => `amend -o ${list} ${named('base')}`),
  {
    line: `amend -o encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10 ${named('base')}`,
    ...changed,
  },
  `amend -o encrypt.state=active,encrypt.new-secret=n ${named('base', 'w')}`,
  'amend -o encrypt.state=active,encrypt.new-secret=n plain',
];

const writing: (string | Row)[] = [
  `convert ${named('base')} -O raw new`,
  `convert ${chained('over')} -O raw new`,
  `convert ${named('base', 'w')} -O raw new`,
  { line: `convert ${named('base')} -O qcow2 new`, files: 'contents' },
  `convert -n raw.img --target-image-opts driver=qcow2,file.filename=base,encrypt.key-secret=w`,
  `convert -c -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s raw.img new`,
  { line: `resize ${named('base')} 6M`, ...changed },
  { line: `resize --shrink ${named('base')} 2M`, ...changed },
  `resize ${named('base', 'w')} 6M`,
  { line: `snapshot -c a ${named('base')}`, ...changed },
  `snapshot -a a ${named('base')}`,
  `snapshot -d a ${named('base', 'w')}`,
  { line: `rebase -u -b '' ${named('over', 'n')}`, ...changed },
  { line: `commit ${chained('over')}`, ...changed },
  `commit ${named('over', 'n')}`,
  { line: `bench -w -c 3 ${named('base')}`, ...changed },
  creating('encrypt.format=luks'),
  creating('encrypt.format=luks,encrypt.key-secret=nobody'),
  creating('encrypt.format=rot13,encrypt.key-secret=s'),
  creating('encrypt.key-secret=s'),
  creating('encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=rot13'),
  creating('encrypt.format=luks,encrypt.key-secret=s,encrypt.hash-alg=crc32'),
  creating('encrypt.format=luks,encryption=on,encrypt.key-secret=s'),
];

const making: Row[] = [
  {
    line: 'create -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 new 1M',
    files: 'info',
    format: 'qcow2',
  },
];

const volatile = ['uuid', 'iters', 'master-key-iters', 'date-sec', 'date-nsec', 'actual-size'];

describe.skipIf(!have('qemu-io'))('LUKS inside qcow2 as qemu-img has it', () => {
  lines('qcow2-luks: reading', reading.map(withObjects), { world, readOnly: true });
  lines('qcow2-luks: key slots', amending.map(withObjects), { world, volatile });
  lines('qcow2-luks: writing', writing.map(withObjects), { world, volatile });
  lines('qcow2-luks: making', making.map(withObjects), { world, volatile });
});
