import { readFile, truncate, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { have, mustRun, run, tempDir } from '../../test/support/programs.ts';
import { cowImg } from './cow-img.ts';

/*
 * Detached headers. The installed QEMU has none, so it is shown both parts as one file: nothing of a header but the payload's offset
 * depends on where the payload lies.
 */

const object = ['--object', 'secret,id=s,data=correct horse'];

async function cow(...args: readonly string[]): Promise<string> {
  const context = testContext({ program: 'cow-img' });
  const [verb, ...rest] = args;
  const code = await cowImg([verb, ...object, ...rest], context);
  if (code !== 0) throw new Error(context.err());
  return context.out();
}

async function join(header: string, payload: string, file: string): Promise<void> {
  const bytes = await readFile(header);
  bytes.writeUInt32BE(bytes.length / 512, 104);
  await writeFile(file, Buffer.concat([bytes, await readFile(payload)]));
}

const content = Buffer.from(new Uint8Array(300 * 512).map((_, at) => (at * 2654435761) >>> 24));
const slot = (dir: { file(name: string): string }) => [
  ...['open', '-v', '--test-passphrase', '--header', dir.file('header'), dir.file('payload'), '-d', '-'],
];

describe.skipIf(!have('cryptsetup') || !have('qemu-img'))('a detached header', () => {
  it('is made, written behind, and its slots are changed', async () => {
    await using dir = await tempDir();
    const [header, payload, raw] = ['header', 'payload', 'raw'].map((name) => dir.file(name));
    const quick = 'key-secret=s,iter-time=1,cipher-alg=aes-128,detached-header=true';
    await cow('create', '-q', '-f', 'luks', '-o', quick, header);
    await writeFile(raw, content);
    await writeFile(payload, '');
    await truncate(payload, content.length);
    const both = `driver=luks,file.filename=${payload},header.driver=file,header.filename=${header},key-secret=s`;
    await cow('convert', '-n', '-f', 'raw', raw, '--target-image-opts', both);
    const test = slot(dir);
    expect((await run('cryptsetup', test, { input: 'correct horse' })).stdout).toContain('slot 0 unlocked');
    expect(await mustRun('cryptsetup', ['luksDump', header])).toMatch(/Payload offset:\s*0\n/);
    const one = dir.file('one');
    await join(header, payload, one);
    const named = `driver=luks,file.filename=${one},key-secret=s`;
    await mustRun('qemu-img', ['convert', ...object, '--image-opts', named, '-O', 'raw', dir.file('out')]);
    expect((await readFile(dir.file('out'))).equals(content)).toBe(true);

    const added = ['--object', 'secret,id=n,data=battery', '-o', 'state=active,new-secret=n,iter-time=1'];
    await cow('amend', ...added, '--image-opts', both);
    expect((await run('cryptsetup', test, { input: 'battery' })).stdout).toContain('slot 1 unlocked');
    const info = JSON.parse(await cow('info', '--output=json', '--image-opts', both));
    expect(info).toMatchObject({ 'virtual-size': content.length, encrypted: true });
    expect(info['format-specific'].data).toMatchObject({ 'detached-header': true, 'payload-offset': 0 });
    // The name that info gives opens both.
    await cow('convert', '-O', 'raw', info.filename, dir.file('again'));
    expect((await readFile(dir.file('again'))).equals(content)).toBe(true);
    await cow('resize', '--image-opts', both, '200k');
    expect((await readFile(payload)).length).toBe(200 * 1024);
    expect((await readFile(header)).length).toBe(4096 + 8 * 131_072);
  });

  it.each(['luks1', 'luks2'])('by cryptsetup (%s) is read', async (type) => {
    await using dir = await tempDir();
    const [header, payload] = ['header', 'payload'].map((name) => dir.file(name));
    await writeFile(payload, content);
    await writeFile(header, '');
    await truncate(header, 32 * 1024 * 1024);
    const how = ['--type', type, '--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
    const format = ['luksFormat', '-q', ...how, '--header', header, payload, '-d', '-'];
    await mustRun('cryptsetup', format, { input: 'correct horse' });
    const both = `driver=luks,file.filename=${payload},header.filename=${header},key-secret=s`;
    await cow('convert', '--image-opts', both, '-O', 'raw', dir.file('ours'));
    if (type === 'luks2') return;
    const parts = await readFile(header);
    await writeFile(header, parts.subarray(0, 4096 + 8 * 258_048));
    await join(header, payload, dir.file('one'));
    const named = `driver=luks,file.filename=${dir.file('one')},key-secret=s`;
    await mustRun('qemu-img', ['convert', ...object, '--image-opts', named, '-O', 'raw', dir.file('out')]);
    expect((await readFile(dir.file('out'))).equals(await readFile(dir.file('ours')))).toBe(true);
  });

  it('is missed, and refused where it does not belong', async () => {
    await using dir = await tempDir();
    const header = dir.file('header');
    const quick = 'key-secret=s,iter-time=1,cipher-alg=aes-128,detached-header=on';
    await cow('create', '-q', '-f', 'luks', '-o', quick, header);
    const alone = cow(
      'convert',
      '--image-opts',
      `driver=luks,file.filename=${header},key-secret=s`,
      '-O',
      'raw',
      dir.file('x'),
    );
    await expect(alone).rejects.toThrow('LUKS payload is overlapping with the header');
    await writeFile(dir.file('raw'), content);
    const converted = cow('convert', '-O', 'luks', '-o', quick, dir.file('raw'), dir.file('y'));
    await expect(converted).rejects.toThrow('A detached header is made by create');
    const onRaw = cow('info', '--image-opts', `driver=raw,file.filename=${header},header.filename=${header}`);
    await expect(onRaw).rejects.toThrow("does not support the option 'header.filename'");
  });
});
