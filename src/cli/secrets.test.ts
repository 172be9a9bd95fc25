import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile, writeFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { builtProgram } from '../../test/support/built-program.ts';
import { testContext } from '../../test/support/cli-context.ts';
import { mustRun, tempDir } from '../../test/support/programs.ts';
import { isUtf8, wipe } from '../crypto/bytes.ts';
import { namedSecret } from '../formats/encryption.ts';
import { cowImg } from './cow-img.ts';
import { UserObjects } from './objects.ts';

const passphrase = 'Xq7-horse-staple';
const wrong = 'Zk9-other-words';

async function said(args: readonly string[]): Promise<{ readonly code: number; readonly text: string }> {
  const context = testContext({ program: 'cow-img' });
  const code = await cowImg(args, context);
  return { code, text: context.out() + context.err() };
}

it('shows no passphrase, whatever goes wrong', async () => {
  await using dir = await tempDir();
  const file = dir.file('image');
  await writeFile(dir.file('key'), passphrase);
  await writeFile(dir.file('raw'), new Uint8Array(1024));
  const objects = [
    ...['--object', `secret,id=s,file=${dir.file('key')}`],
    ...['--object', `secret,id=w,data=${wrong}`],
    ...[
      '--object',
      `secret,id=b,data=${Buffer.from(`${wrong}\xff`, 'latin1').toString('base64')},format=base64`,
    ],
  ];
  const options = ['-o', 'key-secret=s,iter-time=1,cipher-alg=aes-128'];
  const made = await said(['create', ...objects, '-f', 'luks', ...options, file, '4096']);
  expect(made).toMatchObject({ code: 0 });
  const named = (id: string) => ['--image-opts', `driver=luks,file.filename=${file},key-secret=${id}`];
  const answers = [
    made,
    await said(['info', ...objects, ...named('s')]),
    await said(['info', '--output=json', ...objects, ...named('s')]),
    await said(['map', ...objects, ...named('w')]),
    await said(['map', ...objects, ...named('b')]),
    await said(['map', ...objects, ...named('nobody')]),
    await said(['amend', ...objects, '-o', 'state=inactive,old-secret=s', ...named('s')]),
    await said(['amend', ...objects, '-o', 'state=inactive,old-secret=w', ...named('s')]),
    await said(['amend', ...objects, '-o', 'state=active,new-secret=b', ...named('s')]),
    await said(['convert', ...objects, ...named('w'), '-O', 'raw', dir.file('out')]),
  ];
  expect(answers.map(({ code }) => code)).toEqual([0, 0, 0, 1, 1, 1, 1, 1, 1, 1]);
  const text = answers.map((one) => one.text).join('\n');
  expect(text).toContain('Invalid password, cannot unlock any keyslot');
  for (const secret of [passphrase, wrong]) {
    expect(text).not.toContain(secret);
    expect(text).not.toContain(Buffer.from(secret).toString('base64').slice(0, 12));
    expect(text).not.toContain(Buffer.from(secret).toString('hex'));
    expect((await readFile(file)).includes(secret)).toBe(false);
  }
  expect(process.title).not.toContain(passphrase);
});

it('takes a passphrase from a file descriptor', async () => {
  await using dir = await tempDir();
  await writeFile(dir.file('key'), passphrase);
  const options = ['-f', 'luks', '-o', 'key-secret=s,iter-time=1,cipher-alg=aes-128'];
  const making = [
    'create',
    '--object',
    `secret,id=s,data=${passphrase}`,
    ...options,
    dir.file('image'),
    '4096',
  ];
  expect(await said(making)).toMatchObject({ code: 0 });
  const handle = await open(dir.file('key'));
  const object = ['--object', `secret,id=s,file=/dev/fd/${handle.fd}`];
  const named = `driver=luks,file.filename=${dir.file('image')},key-secret=s`;
  expect(await said(['map', '--output=json', ...object, '--image-opts', named])).toMatchObject({ code: 0 });
  await handle.close();
});

it('keeps a secret of a file while an image is made and opened again', async () => {
  await using dir = await tempDir();
  await writeFile(dir.file('key'), passphrase);
  await writeFile(dir.file('raw'), Buffer.alloc(4096, 7));
  const object = ['--object', `secret,id=s,file=${dir.file('key')}`];
  const options = ['-O', 'luks', '-o', 'key-secret=s,iter-time=1,cipher-alg=aes-128'];
  const made = await said([
    'convert',
    ...object,
    '-f',
    'raw',
    ...options,
    dir.file('raw'),
    dir.file('image'),
  ]);
  expect(made).toMatchObject({ code: 0, text: '' });
  const named = `driver=luks,file.filename=${dir.file('image')},key-secret=s`;
  const back = await said(['convert', ...object, '--image-opts', named, '-O', 'raw', dir.file('back')]);
  expect(back).toMatchObject({ code: 0, text: '' });
  expect(await readFile(dir.file('back'))).toEqual(await readFile(dir.file('raw')));
});

it('unpacks base64 as GLib does, so that QEMU finds the same key', async () => {
  const objects = new UserObjects();
  const unpacked = async (id: string, data: string) => {
    objects.add(`secret,id=${id},data=${data},format=base64`);
    return Buffer.from(await objects.secret(id)).toString();
  };
  expect(await unpacked('whole', 'cGFzczA=')).toBe('pass0');
  expect(await unpacked('cut', 'cGFzczA')).toBe('pas');
  expect(await unpacked('joined', 'cGFzczA=cGFz')).toBe('pass0pas');
});

it('overwrites secrets when they are not needed any more', async () => {
  const objects = new UserObjects();
  objects.add(`secret,id=plain,data=${passphrase}`);
  objects.add(`secret,id=packed,data=${Buffer.from(passphrase).toString('base64')},format=base64`);
  const typed = new TextEncoder().encode(passphrase);
  const ids = ['plain', 'packed', objects.keep(typed)];
  const held = await Promise.all(ids.map((id) => objects.secret(id)));
  expect(held.map((bytes) => Buffer.from(bytes).toString())).toEqual([passphrase, passphrase, passphrase]);
  // Who needs one wipes a copy, whatever kind of array it is kept in.
  const keeper = { secret: async () => Buffer.from(held[0].buffer, held[0].byteOffset, held[0].length) };
  const copy = await namedSecret(keeper, 'plain');
  wipe(copy);
  expect(Buffer.from(held[0]).toString()).toBe(passphrase);
  objects.wipe();
  for (const bytes of [...held, typed]) expect([...bytes]).toEqual(passphrase.split('').map(() => 0));
  await expect(objects.secret('plain')).rejects.toThrow("No secret with id 'plain'");
});

it('takes no argument that was no text, and tells UTF-8 as the runtime does', () => {
  expect(() => new UserObjects().add('secret,id=s,data=a\ufffdb')).toThrow(
    'Data from secret s is not valid UTF-8',
  );
  const edges = [0, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1];
  edges.push(0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff);
  for (const first of edges) {
    for (const second of edges) {
      for (const rest of [[], [0x80], [0x80, 0xbf], [0x41], [0x80, 0xc2]]) {
        const bytes = Uint8Array.of(first, second, ...rest);
        expect([bytes, isUtf8(bytes)]).toEqual([
          bytes,
          Buffer.compare(Buffer.from(Buffer.from(bytes).toString()), bytes) === 0,
        ]);
      }
    }
  }
});

it.skipIf(process.platform === 'win32')(
  'ends at a signal while a secret does not come',
  async () => {
    await using dir = await tempDir();
    await mustRun('mkfifo', [dir.file('fifo')]);
    const program = await builtProgram(dir.path, 'cow-img', 'cow-img');
    const writing = open(dir.file('fifo'), 'w');
    const command = [
      ...program,
      'info',
      '--object',
      `secret,id=s,file=${dir.file('fifo')}`,
      dir.file('none'),
    ];
    const child = spawn(command[0], command.slice(1), { stdio: 'ignore' });
    // Open once the program reads.
    await using _writer = await writing;
    child.kill('SIGTERM');
    const [, signal] = await once(child, 'exit');
    expect(signal).toBe('SIGTERM');
  },
  60_000,
);
