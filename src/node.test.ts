import { readFileSync, statSync } from 'node:fs';
import { chmod, link, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, openQemuIo, run, type TempDir, tempDir } from '../test/support/programs.ts';
import {
  createImageFile,
  createImageTarget,
  createTarget,
  openImageFile,
  openLayerFile,
  trustedImages,
} from './node.ts';
import { processPlace, processStart } from './platform/process-identity.ts';

const size = 1 << 20;
const qemu = have('qemu-img') && have('qemu-io');

let dir: TempDir;
beforeEach(async () => {
  dir = await tempDir();
});
afterEach(() => dir.remove());

const create = (args: string) => mustRun('qemu-img', ['create', '-q', ...args.split(' ')], { cwd: dir.path });

/** The bytes on which any process holds locks of the file: `R100 R201 …`. */
function locksOn(path: string): string {
  const { ino } = statSync(path);
  // The kernel writes the list in pieces; a lock may be in two of them while others come and go.
  const bytes = new Set<string>();
  for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
    const found = /: OFDLCK +\w+ +READ +-?\d+ \w+:\w+:(\d+) (\d+) (\d+)/.exec(line);
    if (!found || Number(found[1]) !== ino) continue;
    for (let byte = Number(found[2]); byte <= Number(found[3]); byte++) bytes.add(String(byte));
  }
  return [...bytes].sort().join(' ');
}

describe.skipIf(!qemu)('a chain of files', () => {
  it('is found relative to each file, by its own directory', async () => {
    await mkdir(dir.file('a'));
    await mkdir(dir.file('b'));
    await create('-f raw a/base.raw 1M');
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 64k', dir.file('a/base.raw')]);
    await create('-u -f qcow2 -b base.raw -F raw a/middle.qcow2 1M');
    await create('-u -f qcow2 -b ../a/middle.qcow2 -F qcow2 b/top.qcow2 1M');
    await mustRun('qemu-io', ['-c', 'write -P 9 4k 4k', dir.file('b/top.qcow2')]);
    await using image = await openImageFile(dir.file('b/top.qcow2'), { policy: trustedImages });
    expect(image.backing?.backing?.layer.source.name).toBe(`${dir.path}/b/../a/base.raw`);
    const bytes = new Uint8Array(size);
    await image.read(0, bytes);
    await mustRun('qemu-img', ['convert', '-O', 'raw', dir.file('b/top.qcow2'), dir.file('out')]);
    expect((await readFile(dir.file('out'))).equals(bytes)).toBe(true);
  });

  it('that loops is refused, whatever the names are', async () => {
    await create('-f qcow2 one.qcow2 1M');
    await create('-u -f qcow2 -b one.qcow2 -F qcow2 two.qcow2 1M');
    await symlink('two.qcow2', dir.file('alias.qcow2'));
    await mustRun('qemu-img', ['rebase', '-u', '-b', './alias.qcow2', '-F', 'qcow2', dir.file('one.qcow2')]);
    await expect(openImageFile(dir.file('one.qcow2'))).rejects.toMatchObject({
      code: 'corrupt',
      field: 'backing chain',
      detail: { loop: true },
    });
    const { layer } = await openLayerFile(dir.file('one.qcow2'));
    expect(layer.backing?.path).toBe('./alias.qcow2');
    await layer[Symbol.asyncDispose]();
  });

  it('of 300 opens, as qemu opens it', async () => {
    await create('-f qcow2 0.qcow2 1M');
    await mustRun('qemu-io', ['-c', 'write -P 5 0 1M', dir.file('0.qcow2')]);
    for (let index = 1; index < 300; index++) {
      await createImageFile(dir.file(`${index}.qcow2`), {
        format: 'qcow2',
        size,
        backing: { path: `${index - 1}.qcow2`, format: 'qcow2' },
        durable: false,
      });
    }
    await using image = await openImageFile(dir.file('299.qcow2'), { policy: trustedImages });
    const bytes = new Uint8Array(size);
    await image.read(0, bytes);
    expect(bytes.every((byte) => byte === 5)).toBe(true);
  });

  it('that names a protocol, a strange format, or nothing that is there, is refused in one place', async () => {
    await create('-f qcow2 top.qcow2 1M');
    const rebase = (to: string, format: string) =>
      mustRun('qemu-img', ['rebase', '-u', '-b', to, '-F', format, dir.file('top.qcow2')]);
    await rebase('ssh://localhost/x', 'raw');
    const place = { role: 'backing', depth: 1, from: dir.file('top.qcow2') };
    await expect(openImageFile(dir.file('top.qcow2'), { policy: trustedImages })).rejects.toMatchObject({
      code: 'unsupported',
      detail: { ...place, protocol: 'ssh', reference: 'ssh://localhost/x' },
    });
    await rebase('gone.qcow2', 'qcow2');
    await expect(openImageFile(dir.file('top.qcow2'))).rejects.toMatchObject({
      code: 'not-found',
      path: dir.file('gone.qcow2'),
      detail: place,
    });
    await rebase('/etc/hostname', 'raw');
    await expect(openImageFile(dir.file('top.qcow2'))).rejects.toMatchObject({
      code: 'denied',
      detail: place,
    });
    await symlink('/etc/hostname', dir.file('inside'));
    await rebase('inside', 'raw');
    await expect(openImageFile(dir.file('top.qcow2'))).rejects.toMatchObject({
      code: 'denied',
    });
    await using image = await openImageFile(dir.file('top.qcow2'), { policy: trustedImages });
    expect(image.backing?.layer.format).toBe('raw');
  });
});

describe.skipIf(!qemu)('image locks', () => {
  it('are those that qemu-io takes, file by file', async () => {
    await create('-f raw base.raw 1M');
    await create('-f qcow2 -b base.raw -F raw middle.qcow2');
    await create('-f qcow2 -b middle.qcow2 -F qcow2 top.qcow2');
    const files = ['base.raw', 'middle.qcow2', 'top.qcow2'].map((name) => dir.file(name));
    const all = () => files.map(locksOn);
    const cases: { file: string; args: string[]; options: Parameters<typeof openImageFile>[1] }[] = [
      { file: 'top.qcow2', args: ['-r'], options: {} },
      { file: 'top.qcow2', args: [], options: { writable: true } },
      { file: 'top.qcow2', args: ['-r', '-U'], options: { locks: 'share' } },
      { file: 'base.raw', args: ['-r', '-f', 'raw'], options: { format: 'raw' } },
      { file: 'base.raw', args: ['-f', 'raw'], options: { format: 'raw', writable: true } },
      { file: 'base.raw', args: ['-r', '-U', '-f', 'raw'], options: { format: 'raw', locks: 'share' } },
    ];
    for (const { file, args, options } of cases) {
      const theirs = await (async () => {
        await using _open = await openQemuIo([...args, dir.file(file)]);
        return all();
      })();
      const ours = await (async () => {
        await using _open = await openImageFile(dir.file(file), options);
        return all();
      })();
      expect(theirs.join()).not.toBe(',,');
      expect(ours, `${file} ${args.join(' ')}`).toEqual(theirs);
      expect(all()).toEqual(['', '', '']);
    }
  });

  it('keep qemu out while we write, and us while qemu writes', async () => {
    await create('-f qcow2 top.qcow2 1M');
    const path = dir.file('top.qcow2');
    {
      await using _image = await openImageFile(path, { writable: true });
      const refused = await run('qemu-io', ['-c', 'write 0 512', path]);
      expect(refused.code).toBe(1);
      expect(refused.stderr).toContain('Failed to get "write" lock');
      expect((await run('qemu-img', ['info', '-U', path])).code).toBe(0);
    }
    await using _guest = await openQemuIo([path]);
    await expect(openImageFile(path, { writable: true })).rejects.toMatchObject({ code: 'locked' });
    await expect(openImageFile(path)).rejects.toMatchObject({ code: 'locked' });
    await expect(openImageFile(path, { writable: true, locks: 'share' })).rejects.toMatchObject({
      code: 'bad-argument',
    });
    const shared = await openImageFile(path, { locks: 'share' });
    await shared[Symbol.asyncDispose]();
    const before = await readFile(path);
    await expect(createImageFile(path, { format: 'qcow2', size })).rejects.toMatchObject({ code: 'locked' });
    expect((await readFile(path)).equals(before)).toBe(true);
  });

  it('takes no place of a raw image that somebody writes to, by whatever program', async () => {
    const path = dir.file('written.raw');
    await create('-f raw written.raw 1M');
    const refusal = { code: 'locked' };
    {
      await using image = await openImageFile(path, { format: 'raw', writable: true });
      await expect(createImageFile(path, { format: 'qcow2', size })).rejects.toMatchObject(refusal);
      await image.write(0, new Uint8Array(512).fill(7));
    }
    {
      await using _writer = await openQemuIo(['-f', 'raw', path]);
      await expect(createImageFile(path, { format: 'raw', size })).rejects.toMatchObject(refusal);
    }
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'read -P 7 0 512', path]);
    // Who reads it goes on reading the old one.
    await using _reader = await openQemuIo(['-r', '-f', 'raw', path]);
    await createImageFile(path, { format: 'raw', size });
  });
});

describe('creating a file', () => {
  const options = { format: 'raw', size };

  it('keeps what is there when it is stopped, even at the last moment', async () => {
    const path = dir.file('precious');
    await writeFile(path, 'precious');
    const stopped = { format: 'qcow2', size, signal: AbortSignal.abort('enough') };
    await expect(createImageFile(path, stopped)).rejects.toBe('enough');
    const stop = new AbortController();
    const options = { 'encrypt.format': 'luks', 'encrypt.key-secret': 's', 'encrypt.iter-time': 10 };
    const secret = async () => {
      // No more progress is told after this.
      stop.abort('late');
      return new TextEncoder().encode('secret');
    };
    const late = createImageFile(path, { ...stopped, options, secret, signal: stop.signal });
    await expect(late).rejects.toBe('late');
    expect(await readFile(path, 'utf8')).toBe('precious');
    expect(await readdir(dir.path)).toEqual(['precious']);
  });

  it('leaves the one that is there as it was when it fails, and nothing beside it', async () => {
    const path = dir.file('disk');
    await writeFile(path, 'precious');
    const stop = new AbortController();
    stop.abort('enough');
    await expect(
      createImageFile(path, { ...options, options: { preallocation: 'full' }, signal: stop.signal }),
    ).rejects.toBe('enough');
    await expect(createImageFile(path, { format: 'none', size })).rejects.toMatchObject({
      code: 'bad-argument',
      path,
    });
    await expect(
      createImageFile(path, { format: 'raw', size, backing: { path: 'x' } }),
    ).rejects.toMatchObject({ path });
    expect(await readFile(path, 'utf8')).toBe('precious');
    expect(await readdir(dir.path)).toEqual(['disk']);
  });

  it('replaces it whole, with its permissions, behind symbolic links', async () => {
    const path = dir.file('disk');
    await writeFile(path, 'old');
    await chmod(path, 0o640);
    await symlink('disk', dir.file('name'));
    await createImageFile(`file:${dir.file('name')}`, options);
    expect(statSync(path).size).toBe(size);
    expect(statSync(path).mode & 0o777).toBe(0o640);
    expect(await readdir(dir.path)).toEqual(['disk', 'name']);
  });

  it('writes in place where other names lead to the file', async () => {
    const path = dir.file('disk');
    await writeFile(path, 'old');
    await link(path, dir.file('other'));
    await createImageFile(path, options);
    expect(statSync(dir.file('other')).size).toBe(size);
    await using target = await createTarget(path);
    expect([target.aside, target.store.size]).toEqual([false, 0]);
    await target.store.write(0, new Uint8Array(10));
    await target.store[Symbol.asyncDispose]();
    await target.commit();
  });

  it('leaves a file alone that may be another name of a guarded image', async () => {
    const path = dir.file('disk');
    await createImageFile(path, options);
    await link(path, dir.file('other'));
    await chmod(path, 0o444);
    const before = await readFile(path);
    const refusal = { code: 'in-use', path: dir.file('other') };
    await expect(createTarget(dir.file('other'))).rejects.toMatchObject(refusal);
    await expect(openImageFile(dir.file('other'), { writable: true })).rejects.toMatchObject(refusal);
    expect(before.equals(await readFile(path))).toBe(true);
    await using image = await openImageFile(dir.file('other'));
    expect(image.size).toBe(size);
    await chmod(path, 0o644);
    await using writable = await openImageFile(dir.file('other'), { writable: true });
    expect(writable.size).toBe(size);
  });

  it.skipIf(!isRoot)('writes to another name of a guarded image when it is told to', async () => {
    const path = dir.file('disk');
    await writeFile(path, 'old', { mode: 0o444 });
    await link(path, dir.file('other'));
    await createImageFile(dir.file('other'), { ...options, corruptDependents: true });
    expect(statSync(path).size).toBe(size);
  });

  it('removes what a killed run left of the same file, and nothing else', async () => {
    // Marked as this process's number in an earlier life, as `process-identity.ts` tells them apart.
    const mark = `cowherd-${process.pid}-1.${processPlace()}.0badcafe0bad.part`;
    const running = `.disk.cowherd-${process.pid}-${processStart(process.pid)}.${processPlace()}.1.part`;
    for (const name of [`.disk.${mark}`, `.other.${mark}`, running]) await writeFile(dir.file(name), 'x');
    await createImageFile(dir.file('disk'), options);
    expect((await readdir(dir.path)).sort()).toEqual([running, `.other.${mark}`, 'disk'].sort());
  });

  it('refuses protocols, directories and places that are not there, by their own names', async () => {
    await expect(createImageFile('ssh://x/y', options)).rejects.toMatchObject({
      code: 'unsupported',
      field: 'protocol',
    });
    await expect(createImageFile(dir.path, options)).rejects.toMatchObject({
      code: 'bad-argument',
      path: dir.path,
    });
    const path = dir.file('gone/disk');
    await expect(createImageFile(path, options)).rejects.toMatchObject({ code: 'not-found', path });
  });

  it('gives an image that is opened over the target its name', async () => {
    const path = dir.file('disk');
    await using target = await createTarget(path);
    expect(target.aside).toBe(true);
    expect(target.store.name).toBe(path);
    await target.store.write(0, new Uint8Array(10).fill(1));
    await expect(readFile(path)).rejects.toThrow('ENOENT');
    await target.commit();
    expect(statSync(path).size).toBe(10);
    await rename(path, dir.file('moved'));
  });

  it('puts the files that it will name in their places before it, and takes away what they were part of', async () => {
    const path = dir.file('disk');
    await createImageFile(path, { ...options, format: 'qcow2', options: { data_file: 'disk.data' } });
    await using target = await createImageTarget(path);
    const { sibling } = target.context();
    const data = await sibling!('disk.data');
    expect(await sibling!('./disk.data')).toBe(data);
    await data.write(0, new Uint8Array(10).fill(1));
    await target.store.write(0, new Uint8Array(10).fill(2));
    await expect(sibling!('./disk')).rejects.toMatchObject({ code: 'bad-argument' });
    expect(statSync(dir.file('disk.data')).size).toBe(size);
    await target.commit();
    expect([statSync(dir.file('disk.data')).size, statSync(path).size]).toEqual([10, 10]);
    expect((await readdir(dir.path)).sort()).toEqual(['disk', 'disk.data']);
  });

  it('puts all of them back when one cannot take its place', async () => {
    const names = ['disk', 'disk.data', 'disk.more'];
    for (const name of names) await writeFile(dir.file(name), `old ${name}`);
    {
      await using target = await createImageTarget(dir.file('disk'));
      const { sibling } = target.context();
      for (const name of ['disk.data', 'disk.new', 'disk.more']) {
        await (await sibling!(name)).write(0, new Uint8Array(10).fill(1));
      }
      await rm(dir.file('disk.more'));
      await mkdir(dir.file('disk.more'));
      await expect(target.commit()).rejects.toMatchObject({ path: dir.file('disk.more') });
    }
    expect((await readdir(dir.path)).sort()).toEqual(names);
    for (const name of names.slice(0, 2)) expect(readFileSync(dir.file(name), 'utf8')).toBe(`old ${name}`);
  });

  it('loses none of them when one cannot be made durable', async () => {
    const names = ['disk', 'disk.data'];
    for (const name of names) await writeFile(dir.file(name), `old ${name}`);
    {
      await using target = await createImageTarget(dir.file('disk'));
      await (await target.context().sibling!('disk.data')).write(0, new Uint8Array(10).fill(1));
      // What cannot be opened cannot be flushed.
      const written = (await readdir(dir.path)).find((name) => name.startsWith('.disk.data.'))!;
      await rm(dir.file(written));
      await expect(target.commit()).rejects.toThrow();
    }
    expect((await readdir(dir.path)).sort()).toEqual(names);
    for (const name of names) expect(readFileSync(dir.file(name), 'utf8')).toBe(`old ${name}`);
  });

  it('leaves all of them as they were when it is given up', async () => {
    const path = dir.file('disk');
    await createImageFile(path, { ...options, format: 'qcow2', options: { data_file: 'disk.data' } });
    const before = [path, dir.file('disk.data')].map((name) => readFileSync(name));
    {
      await using target = await createImageTarget(path);
      await (await target.context().sibling!('disk.data')).write(0, new Uint8Array(10).fill(1));
    }
    expect(
      before[0].equals(readFileSync(path)) && before[1].equals(readFileSync(dir.file('disk.data'))),
    ).toBe(true);
    expect((await readdir(dir.path)).sort()).toEqual(['disk', 'disk.data']);
  });
});

describe.skipIf(!qemu || !isRoot || !have('losetup'))('a block device (loop device)', () => {
  it.each(['falloc', 'full'])(
    'has no space to set aside: preallocation=%s is refused',
    async (preallocation) => {
      const file = dir.file('device');
      await writeFile(file, new Uint8Array(8 << 20));
      const device = (await mustRun('losetup', ['-f', '--show', file])).trim();
      try {
        const words = `Preallocation mode '${preallocation}' unsupported for this non-regular file`;
        const options = ['-f', 'qcow2', '-o', `preallocation=${preallocation}`];
        expect((await run('qemu-img', ['create', ...options, device, '1M'])).stderr).toContain(words);
        const ours = createImageFile(device, { format: 'qcow2', size: 1 << 20, options: { preallocation } });
        await expect(ours).rejects.toMatchObject({ code: 'unsupported', message: words });
      } finally {
        await run('losetup', ['-d', device]);
      }
    },
  );

  it.each(['raw', 'qcow2'])('takes a %s image over it, which qemu-img reads', async (format) => {
    const file = dir.file('device');
    await writeFile(file, new Uint8Array(8 << 20).fill(0xee));
    const device = (await mustRun('losetup', ['-f', '--show', file])).trim();
    try {
      await createImageFile(device, { format, size });
      const model = new Uint8Array(format === 'raw' ? 8 << 20 : size).fill(format === 'raw' ? 0xee : 0);
      // As qemu-img leaves it: whoever guesses the format finds no older header.
      model.fill(0, 0, 512);
      {
        await using image = await openImageFile(device, { format, writable: true });
        expect(image.size).toBe(model.length);
        for (const [offset, length] of [
          [1000, 5000],
          [300_000, 200_000],
          [1_000_000, 48_576],
        ]) {
          await image.write(offset, new Uint8Array(length).fill(length % 255));
          model.fill(length % 255, offset, offset + length);
        }
        await image.zero(310_000, 100_000, { unmap: true });
        model.fill(0, 310_000, 410_000);
        await image.flush();
      }
      await mustRun('qemu-img', ['convert', '-f', format, '-O', 'raw', device, dir.file('out')]);
      expect((await readFile(dir.file('out'))).equals(model)).toBe(true);
      if (format === 'qcow2') await mustRun('qemu-img', ['check', '-f', format, device]);
      // A device cannot be replaced by a file, nor hold more than it has.
      expect(statSync(device).isBlockDevice()).toBe(true);
      await expect(createImageFile(device, { format: 'raw', size: 9 << 20 })).rejects.toMatchObject({
        code: 'out-of-space',
      });
    } finally {
      await run('losetup', ['-d', device]);
    }
  });
});
