import { readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cowImg } from '../src/cli/cow-img.ts';
import { openFileStore } from '../src/node.ts';
import { reloadLibc } from '../src/platform/libc.ts';
import { testContext } from './support/cli-context.ts';
import { have, isRoot, mustRun, openQemuIo, run, type TempDir, tempDir } from './support/programs.ts';

const canLoop = isRoot && have('losetup') && (await run('losetup', ['-f'])).code === 0;
const canNode = canLoop && have('mknod');

describe.skipIf(!canLoop || !have('qemu-img') || !have('qemu-io'))('a block device as a target', () => {
  let dir: TempDir;
  let device: string;

  beforeEach(async () => {
    dir = await tempDir('cowherd-targets-');
    await mustRun('truncate', ['-s', '8M', dir.file('behind')]);
    device = (await mustRun('losetup', ['-f', '--show', dir.file('behind')])).trim();
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', device, '4M']);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 5 0 2M', device]);
    const overlay = ['-b', device, '-F', 'qcow2', dir.file('overlay')];
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', ...overlay]);
    await mustRun('qemu-img', ['create', '-q', '-f', 'raw', dir.file('other'), '1M']);
  });
  afterEach(async () => {
    await mustRun('losetup', ['-d', device]);
    await dir.remove();
  });

  async function refused(line: string): Promise<string> {
    const context = testContext({ program: 'cow-img', cwd: dir.path });
    const words = line.split(' ').map((word) => word.replace('DEVICE', device).replace('DIR', dir.path));
    expect([line, await cowImg(words, context)]).toEqual([line, 1]);
    const read = ['-r', '-U', '-f', 'qcow2', '-c', 'read -P 5 0 2M', device];
    const { stdout, stderr } = await run('qemu-io', read);
    expect([line, stdout + stderr]).toEqual([line, expect.not.stringMatching(/failed|error/i)]);
    return context.err();
  }

  const writers = [
    ...['qcow2', 'vhdx', 'vdi', 'vpc', 'qed', 'parallels', 'qcow', 'raw'].map(
      (format) => `create -q -f ${format} DEVICE 1M`,
    ),
    'create -q -f luks --object secret,id=s,data=x -o key-secret=s DEVICE 1M',
    'convert -f raw -O qcow2 DIR/other DEVICE',
    'convert -f raw -O raw DIR/other DEVICE',
    'dd -f raw -O qcow2 if=DIR/other of=DEVICE',
    'create -q -f qcow2 -o data_file=DEVICE DIR/new 1M',
  ];

  it('that a guest has, or that stands beneath a disk that one has, is not written to', async () => {
    for (const image of [device, dir.file('overlay')]) {
      await using _guest = await openQemuIo(['-f', 'qcow2', image]);
      for (const line of writers) expect(await refused(line)).toContain('Failed to get "write" lock');
    }
  });

  it('that a guest has is refused in the words of qemu-img, without koffi too', async () => {
    const said = (words: string) => words.replaceAll(/^(cow|qemu)-img: /gm, '');
    await using _guest = await openQemuIo(['-f', 'qcow2', device]);
    try {
      for (const line of writers) {
        const words = line.split(' ').map((word) => word.replace('DEVICE', device).replace('DIR', dir.path));
        const { stderr } = await run('qemu-img', words);
        for (const without of ['0', '1']) {
          process.env.COWHERD_NO_KOFFI = without;
          reloadLibc();
          expect([line, said(await refused(line))]).toEqual([line, said(stderr)]);
        }
      }
    } finally {
      delete process.env.COWHERD_NO_KOFFI;
      reloadLibc();
    }
  });

  it('that is too small, cannot become it, or a path that leads nowhere, is told of in the words of qemu-img', async () => {
    symlinkSync('round', dir.file('round'));
    for (const line of [
      'create -q -f qed DEVICE 1M',
      'create -q -f raw -o preallocation=full DEVICE 1M',
      'convert -f raw -O raw -o preallocation=falloc DIR/other DEVICE',
      'resize -f raw DEVICE 16M',
      'resize -f raw --shrink DEVICE 1M',
      'create -q -f vpc -o subformat=fixed DEVICE 16M',
      'create -q -f vhdx -o subformat=fixed DEVICE 16M',
      'create -q --object secret,id=s,data=a -f luks -o key-secret=s,iter-time=10 DEVICE 16M',
      'create -q --object secret,id=s,data=a -f luks -o key-secret=s,iter-time=10,preallocation=full DEVICE 1M',
      'convert --object secret,id=s,data=a -f raw -O luks -o key-secret=s,iter-time=10,preallocation=falloc DIR/other DEVICE',
      'convert -f raw -O qcow2 DIR/other DIR/round',
      'dd -f raw -O raw if=DIR/other of=DIR/round',
      `convert -f raw -O qcow2 DIR/other DIR/${'x'.repeat(256)}`,
    ]) {
      const words = line.split(' ').map((word) => word.replace('DEVICE', device).replace('DIR', dir.path));
      const context = testContext({ program: 'cow-img', cwd: dir.path });
      expect([line, await cowImg(words, context)]).toEqual([line, 1]);
      const { stderr } = await run('qemu-img', words);
      expect(context.err().replace('cow-img', 'qemu-img')).toBe(stderr);
    }
  });

  it('that is read, or that stands beneath what is read, is not written to', async () => {
    symlinkSync(device, dir.file('link'));
    for (const source of ['DEVICE', 'DIR/overlay']) {
      for (const target of ['DEVICE', 'DIR/link']) {
        const lines = [
          `convert -f qcow2 -O qcow2 ${source} ${target}`,
          `dd -f qcow2 -O raw if=${source} of=${target}`,
        ];
        for (const line of lines) {
          expect(await refused(line)).toContain('Failed to get "write" lock');
          expect(await refused(line.replace('-f', '-U -f'))).toContain('which is read');
        }
      }
    }
  });

  it.skipIf(!canNode)('that is read is not written to by another node of it', async () => {
    const { rdev } = statSync(device);
    await mustRun('mknod', [dir.file('node'), 'b', String((rdev >> 8) & 0xfff), String(rdev & 0xff)]);
    for (const source of ['DEVICE', 'DIR/overlay']) {
      for (const line of [
        `convert -f qcow2 -O qcow2 ${source} DIR/node`,
        `convert -U -f qcow2 -O qcow2 ${source} DIR/node`,
        `dd -f qcow2 -O qcow2 if=${source} of=DIR/node`,
      ]) {
        expect(await refused(line)).toContain('which is read, under another name');
      }
    }
  });

  it('is left by a raw image as it was, but for a header that was there: as qemu-img leaves it', async () => {
    const left: Buffer[] = [];
    for (const program of ['ours', 'qemu-img']) {
      writeFileSync(device, Buffer.alloc(1 << 20, 0xee));
      const words = ['create', '-q', '-f', 'raw', device, '1M'];
      if (program === 'ours') expect(await cowImg(words, testContext({ cwd: dir.path }))).toBe(0);
      else await mustRun('qemu-img', words);
      left.push(readFileSync(device).subarray(0, 1 << 20));
    }
    expect(left[0].equals(left[1])).toBe(true);
  });

  it('stays locked from before its first byte until it is closed', async () => {
    {
      await using _guest = await openQemuIo(['-f', 'qcow2', device]);
      await expect(openFileStore(device, { create: 'truncate' })).rejects.toMatchObject({ code: 'locked' });
    }
    await using _store = await openFileStore(device, { create: 'truncate' });
    const { stderr } = await run('qemu-img', ['create', '-f', 'raw', device, '1M']);
    expect(stderr).toContain('Failed to get');
  });
});
