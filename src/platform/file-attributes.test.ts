import { chmodSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../../test/support/programs.ts';
import { createTarget } from '../node.ts';
import { copyAttributes } from './file-attributes.ts';
import { libc, reloadLibc } from './libc.ts';

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-attributes-');
});
afterEach(async () => {
  delete process.env.COWHERD_NO_KOFFI;
  reloadLibc();
  await folder.remove();
});

function file(name: string, mode: number): string {
  writeFileSync(folder.file(name), name);
  chmodSync(folder.file(name), mode);
  return folder.file(name);
}

const modeOf = (path: string) => (statSync(path).mode % 0o10000).toString(8);
const setfacl = (...args: string[]) => mustRun('setfacl', args);
const getfacl = (path: string) => mustRun('getfacl', ['-cnp', path]);

/** Replaces a file as cow-img does; answers whether another one has its place then. */
async function replace(path: string): Promise<boolean> {
  const { ino } = statSync(path);
  {
    await using target = await createTarget(path);
    await target.store.write(0, new TextEncoder().encode('new'));
    await target.commit();
  }
  return statSync(path).ino !== ino;
}

describe.skipIf(!have('setfacl') || !have('getfacl'))('a file with an access control list', () => {
  it.skipIf(!libc())('keeps it when it is replaced', async () => {
    const path = file('disk', 0o640);
    await setfacl('-m', 'u:65534:rw,u:1234:---,g:2345:r,m::rw', path);
    const before = await getfacl(path);
    expect(await replace(path)).toBe(true);
    expect(await getfacl(path)).toBe(before);
  });

  it.skipIf(!libc())('gets none that its folder gives to new files, nor does its mask open one', async () => {
    const path = file('disk', 0o660);
    await setfacl('-d', '-m', 'u:65534:rwx', folder.path);
    const before = await getfacl(path);
    expect(await replace(path)).toBe(true);
    expect(await getfacl(path)).toBe(before);
  });

  it('is written in place without koffi, where lists cannot be carried over', async () => {
    process.env.COWHERD_NO_KOFFI = '1';
    reloadLibc();
    const path = file('disk', 0o640);
    expect(await replace(path)).toBe(true);
    await setfacl('-m', 'u:65534:rw,g::---', path);
    const before = await getfacl(path);
    expect(await replace(path)).toBe(false);
    expect(await getfacl(path)).toBe(before);
    const copy = file('copy', 0o600);
    copyAttributes(path, copy);
    expect(modeOf(copy)).toBe('600');
  });

  it.skipIf(!isRoot || !libc() || !have('mount'))(
    'loses it to a file system without lists, and opens nothing',
    async () => {
      const place = folder.file('place');
      mkdirSync(place);
      const mounted = await run('mount', ['-t', 'ramfs', 'none', place]);
      expect(mounted.code).toBe(0);
      try {
        const path = file('disk', 0o664);
        await setfacl('-m', 'u:65534:r,g::rw,m::rw', path);
        const copy = file('place/copy', 0o600);
        copyAttributes(path, copy);
        expect(modeOf(copy)).toBe('644');
        await setfacl('-m', 'u:1234:---', path);
        copyAttributes(path, copy);
        expect(modeOf(copy)).toBe('600');
      } finally {
        await mustRun('umount', [place]);
      }
    },
  );
});

describe.skipIf(!have('setfattr') || !have('getfattr') || !libc())('extended attributes', () => {
  it('stay when a file is replaced, but for what is true of the old content alone', async () => {
    const path = file('disk', 0o600);
    const set = (name: string, value: string) => mustRun('setfattr', ['-n', name, '-v', value, path]);
    await set('user.origin', 'a lab');
    await set('user.empty', '');
    if (isRoot) {
      await set('trusted.libvirt.security.ref_dac', '1');
      await set('security.capability', '0x0100000200200000000000000000000000000000');
    }
    const list = async () =>
      (await mustRun('getfattr', ['-d', '-m', '-', '--absolute-names', path])).trim().split('\n').slice(1);
    const before = await list();
    expect(await replace(path)).toBe(true);
    expect(await list()).toEqual(before.filter((line) => !line.startsWith('security.capability')));
    expect(before.length).toBe(isRoot ? 4 : 2);
  });
});

describe.skipIf(!isRoot)('an owner that cannot be kept', () => {
  it('gives his group’s rights to no other group', async () => {
    const path = file('disk', 0o664);
    await mustRun('chown', ['0:0', path]);
    const copy = file('copy', 0o600);
    await mustRun('chown', ['2345:2345', copy]);
    chmodSync(folder.path, 0o755);
    const groups = process.getgroups!();
    process.setgroups!([2345]);
    process.setegid!(2345);
    process.seteuid!(2345);
    try {
      copyAttributes(path, copy);
    } finally {
      process.seteuid!(0);
      process.setegid!(0);
      process.setgroups!(groups);
    }
    expect(modeOf(copy)).toBe('644');
  });
});
