import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun, tempDir } from '../../../test/support/programs.ts';
import { preseededInstaller } from './preseed.ts';

describe.skipIf(!have('xorriso'))('the installer that is booted with a preseed', () => {
  it.each([
    ['of a DVD', { 'install.amd/vmlinuz': 'kernel', 'install.amd/initrd.gz': 'initrd' }],
    ['of netboot (mini.iso)', { linux: 'kernel', 'initrd.gz': 'initrd' }],
    [
      'that has both its files in one place',
      { 'install.amd/vmlinuz': 'other', linux: 'kernel', 'initrd.gz': 'initrd' },
    ],
  ])('is that %s', async (_what, files) => {
    await using folder = await tempDir();
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(folder.file(`cd/${name}/..`), { recursive: true });
      writeFileSync(folder.file(`cd/${name}`), text);
    }
    await mustRun('xorriso', [
      '-as',
      'mkisofs',
      '-quiet',
      '-r',
      '-o',
      folder.file('cd.iso'),
      folder.file('cd'),
    ]);
    mkdirSync(folder.file('scratch'));
    const answers = new TextEncoder().encode('d-i ...');
    const { path, initrd } = await preseededInstaller(folder.file('cd.iso'), answers, folder.file('scratch'));
    expect(readFileSync(path, 'utf8')).toBe('kernel');
    expect(readFileSync(initrd, 'utf8')).toContain('initrd\0\u{0}070701');
  });

  it('speaks in lines on the serial port: no screen program, no windows', async () => {
    await using folder = await tempDir();
    mkdirSync(folder.file('cd'));
    for (const name of ['linux', 'initrd.gz']) writeFileSync(folder.file(`cd/${name}`), 'x');
    await mustRun('xorriso', [
      '-as',
      'mkisofs',
      '-quiet',
      '-r',
      '-o',
      folder.file('cd.iso'),
      folder.file('cd'),
    ]);
    const { commandLine } = await preseededInstaller(folder.file('cd.iso'), new Uint8Array(), folder.path);
    expect(commandLine.split(' ')).toEqual(expect.arrayContaining(['TERM=dumb', 'DEBIAN_FRONTEND=text']));
  });
});
