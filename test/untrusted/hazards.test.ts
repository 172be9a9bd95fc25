import { open, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openImageFile, trustedImages } from '../../src/node.ts';
import { have, mustRun } from '../support/programs.ts';
import { Inbox } from './inbox.ts';

/*
 * Images as a stranger could send them, made by qemu-img, each with one thing in its header that leads out of its
 * directory. `--untrusted` refuses each, before anything is opened, in every verb that reads; without it cow-img goes
 * where qemu-img goes; the library refuses unless told otherwise; `cowherd inspect` says what it is.
 */

let box: Inbox;
const outside = 'secret.raw';

async function image(name: string, backing: string, format = 'raw'): Promise<void> {
  const options = ['-q', '-u', '-f', 'qcow2', '-b', backing, '-F', format, name, '1M'];
  await mustRun('qemu-img', ['create', ...options], { cwd: box.path });
}

/** By image: what `--untrusted` says of it, and what `inspect` finds. */
const hazards: Readonly<Record<string, { says: string; found: Record<string, unknown> }>> = {
  'shadow.qcow2': {
    says: "An untrusted image names '/etc/shadow', outside its own directory",
    found: { kind: 'file', files: [{ path: '/etc/shadow', is: expect.stringContaining('a file of') }] },
  },
  'absolute.qcow2': { says: 'outside its own directory', found: { kind: 'file' } },
  'dotdot.qcow2': { says: `names '../${outside}', outside its own directory`, found: { kind: 'file' } },
  'winding.qcow2': { says: 'outside its own directory', found: { kind: 'file' } },
  'prefixed.qcow2': { says: 'outside its own directory', found: { kind: 'file' } },
  'linked.qcow2': {
    says: "names 'way-out', outside its own directory",
    found: { files: [{ is: expect.stringContaining('a symbolic link to a file') }] },
  },
  'linkdir.qcow2': { says: 'outside its own directory', found: { kind: 'file' } },
  'json.qcow2': {
    says: 'which is no plain file',
    found: { kind: 'json', files: [{ path: '/etc/shadow' }], drivers: ['raw', 'file'] },
  },
  'jsonquotes.qcow2': {
    says: 'which is no plain file',
    found: { kind: 'json', files: [{ path: '/etc/shadow' }] },
  },
  'jsonhttp.qcow2': {
    says: 'which is no plain file',
    found: { kind: 'json', drivers: ['http'], places: ['file.url=http://127.0.0.1:1/x'] },
  },
  'nbd.qcow2': { says: 'which is no plain file', found: { kind: 'protocol', drivers: ['nbd'] } },
  'ssh.qcow2': { says: 'which is no plain file', found: { kind: 'protocol', drivers: ['ssh'] } },
  'http.qcow2': { says: 'which is no plain file', found: { kind: 'protocol', drivers: ['http'] } },
  'blkdebug.qcow2': { says: 'which is no plain file', found: { kind: 'protocol', drivers: ['blkdebug'] } },
  'device.qcow2': { says: "names '/dev/zero', outside", found: { files: [{ is: 'a character device' }] } },
};

beforeAll(async () => {
  if (!have('qemu-img')) return;
  box = await Inbox.make();
  await writeFile(box.dir.file(outside), new Uint8Array(4096).fill(0x73));
  await writeFile(box.file('inside.raw'), new Uint8Array(4096).fill(0x69));
  await writeFile(box.file('below/inside.raw'), new Uint8Array(4096).fill(0x69));
  await image('shadow.qcow2', '/etc/shadow');
  await image('absolute.qcow2', box.dir.file(outside));
  await image('dotdot.qcow2', `../${outside}`);
  await image('winding.qcow2', `below/.././/../${outside}`);
  await image('prefixed.qcow2', `file:../${outside}`);
  await symlink(`../${outside}`, box.file('way-out'));
  await image('linked.qcow2', 'way-out');
  await symlink('..', box.file('up'));
  await image('linkdir.qcow2', `up/${outside}`);
  await image('json.qcow2', 'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/shadow"}}');
  await image('jsonquotes.qcow2', "json:{'file.filename':'/etc/shadow'}");
  await image('jsonhttp.qcow2', 'json:{"file":{"driver":"http","url":"http://127.0.0.1:1/x"}}');
  await image('nbd.qcow2', 'nbd://127.0.0.1:1/x');
  await image('ssh.qcow2', 'ssh://127.0.0.1/etc/shadow');
  await image('http.qcow2', 'http://127.0.0.1:1/x');
  await image('blkdebug.qcow2', 'blkdebug::/etc/shadow');
  await image('device.qcow2', '/dev/zero');
  await mustRun('mkfifo', [box.file('pipe')]);
  await image('fifo.qcow2', 'pipe');
  await image('good.qcow2', 'inside.raw');
  await image('gooddeep.qcow2', './below/inside.raw');
  await image('gone.qcow2', 'not-there.raw');
  await image('self.qcow2', './self.qcow2', 'qcow2');
  for (let index = 0; index < 17; index++) {
    await image(
      `chain${index}.qcow2`,
      index === 0 ? 'inside.raw' : `chain${index - 1}.qcow2`,
      index === 0 ? 'raw' : 'qcow2',
    );
  }
  // A data file by its header extension: qemu-img writes the name as it was given.
  const dataFile = join(box.dir.path, 'outside.data');
  await mustRun('qemu-img', [
    'create',
    '-q',
    '-f',
    'qcow2',
    '-o',
    `data_file=${dataFile}`,
    box.file('data.qcow2'),
    '1M',
  ]);
  await mustRun(
    'qemu-img',
    ['create', '-q', '-f', 'qcow2', '-o', 'data_file=near.data', 'neardata.qcow2', '1M'],
    { cwd: box.path },
  );
});

afterAll(async () => {
  await box?.[Symbol.asyncDispose]();
});

describe.skipIf(!have('qemu-img'))('an image from a stranger', () => {
  for (const [name, { says, found }] of Object.entries(hazards)) {
    it(`${name}: refused with --untrusted by every verb that would go there`, async () => {
      const verbs = [
        ['map', '--untrusted', name],
        ['compare', '--untrusted', name, name],
        ['check', '--untrusted', name],
        ['convert', '--untrusted', '-O', 'raw', name, 'out.raw'],
        ['info', '--untrusted', '--backing-chain', name],
        ['map', '--untrusted', '--image-opts', `driver=qcow2,file.filename=${name}`],
        ['create', '--untrusted', '-f', 'qcow2', '-b', name, '-F', 'qcow2', 'over.qcow2'],
      ];
      for (const line of verbs) {
        const answer = await box.cow(line);
        expect(answer, line.join(' ')).toMatchObject({ err: expect.stringContaining(says) });
        expect(answer.code, line.join(' ')).toBeGreaterThan(0);
      }
      // What only looks at the image itself still works.
      expect(await box.cow(['info', '--untrusted', name])).toMatchObject({ code: 0 });
    });

    it(`${name}: refused by the library unless told otherwise`, async () => {
      await expect(openImageFile(box.file(name))).rejects.toMatchObject({ code: 'denied' });
    });

    it(`${name}: inspect says where it leads, and opens nothing of it`, async () => {
      const answer = await box.inspect(name);
      expect(answer.code).toBe(3);
      expect(answer.found).toHaveLength(1);
      expect(answer.found[0]).toMatchObject({
        role: 'backing file',
        refusal: expect.stringContaining(says),
        ...found,
      });
    });
  }

  it('is followed without --untrusted, as qemu-img does', async () => {
    for (const name of [
      'absolute.qcow2',
      'dotdot.qcow2',
      'linked.qcow2',
      'linkdir.qcow2',
      'prefixed.qcow2',
    ]) {
      const ours = await box.cow(['map', '--output=json', name]);
      const theirs = await mustRun('qemu-img', ['map', '--output=json', name], { cwd: box.path });
      expect(ours.out, name).toBe(theirs);
    }
    await using trusted = await openImageFile(box.file('dotdot.qcow2'), { policy: trustedImages });
    const bytes = new Uint8Array(4096);
    await trusted.read(0, bytes);
    expect(bytes.every((byte) => byte === 0x73)).toBe(true);
  });

  it('may stand on files beside it and below', async () => {
    for (const name of ['good.qcow2', 'gooddeep.qcow2']) {
      expect(await box.cow(['map', '--untrusted', name]), name).toMatchObject({ code: 0, err: '' });
      expect((await box.inspect(name)).code, name).toBe(0);
      await using image = await openImageFile(box.file(name));
      const bytes = new Uint8Array(4096);
      await image.read(0, bytes);
      expect(bytes.every((byte) => byte === 0x69)).toBe(true);
    }
  });

  it('that names what is not there says so, and not that it is outside', async () => {
    expect(await box.cow(['map', '--untrusted', 'gone.qcow2'])).toMatchObject({
      code: 1,
      err: expect.stringContaining('No such file or directory'),
    });
  });

  it('with a FIFO as backing file neither waits nor opens it', async () => {
    expect(await box.cow(['map', '--untrusted', 'fifo.qcow2'])).toMatchObject({
      code: 1,
      err: expect.stringContaining("'pipe' is a FIFO"),
    });
    const { found } = await box.inspect('fifo.qcow2');
    expect(found[0]).toMatchObject({ files: [{ is: 'a FIFO' }] });
  });

  it('may have a chain of 16 images and no deeper', async () => {
    expect(await box.cow(['map', '--untrusted', 'chain14.qcow2'])).toMatchObject({ code: 0 });
    for (const verb of [['map'], ['info', '--backing-chain']]) {
      expect(await box.cow([...verb, '--untrusted', 'chain15.qcow2']), verb[0]).toMatchObject({
        code: 1,
        err: expect.stringContaining('The backing chain has more than 16 images'),
      });
    }
    expect(await box.cow(['map', 'chain16.qcow2'])).toMatchObject({ code: 0 });
  });

  it('that is its own backing file ends in an answer', async () => {
    expect(await box.cow(['map', '--untrusted', 'self.qcow2'])).toMatchObject({
      code: 1,
      err: expect.stringContaining('infinite loop'),
    });
  });

  it('with a data file outside: inspect says so', async () => {
    const { code, found } = await box.inspect('data.qcow2');
    expect(code).toBe(3);
    expect(found).toMatchObject([
      {
        role: 'data file',
        files: [{ path: join(box.dir.path, 'outside.data') }],
        refusal: expect.any(String),
      },
    ]);
    expect((await box.inspect('neardata.qcow2')).code).toBe(0);
    const answer = await box.cow(['map', '--untrusted', 'data.qcow2']);
    expect(answer.code).toBe(1);
    await expect(openImageFile(box.file('data.qcow2'))).rejects.toMatchObject({ name: 'DiskError' });
  });

  it('whose json: nodes open the image itself again and again ends in an answer', async () => {
    const nested = 'json:{"driver":"raw","file":{"driver":"qcow2","file":{"filename":"ouroboros.qcow2"}}}';
    await image('ouroboros.qcow2', nested);
    expect(await box.cow(['map', 'ouroboros.qcow2'])).toMatchObject({ code: 1 });
  });

  it('is inspected by its header alone: the rest of the file may be missing', async () => {
    await image('cut.qcow2', '/etc/shadow');
    const file = await open(box.file('cut.qcow2'), 'r+');
    await file.truncate(65536);
    await file.close();
    expect((await box.inspect('cut.qcow2')).found[0]).toMatchObject({ reference: '/etc/shadow' });
  });
});
