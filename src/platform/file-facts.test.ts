import {
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../../test/support/programs.ts';
import {
  factsIfAny,
  factsOf,
  isImmutable,
  isSameFile,
  realPath,
  setImmutable,
  setMode,
  spaceAt,
} from './file-facts.ts';
import { libc, reloadLibc } from './libc.ts';

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-facts-');
});
afterEach(() => folder.remove());

describe('factsOf', () => {
  it('tells what stat and du tell', async () => {
    const path = folder.file('disk');
    writeFileSync(path, Buffer.alloc(10_000, 1));
    truncateSync(path, 1_000_000);
    const facts = factsOf(path);
    const [size, blocks, mode, inode, modified, links] = (
      await mustRun('stat', ['-c', '%s %b %a %i %.9Y %h', path])
    )
      .trim()
      .split(' ');
    expect(facts).toMatchObject({
      kind: 'regular',
      size: Number(size),
      allocated: Number(blocks) * 512,
      mode: Number.parseInt(mode, 8),
      inode: BigInt(inode),
      modifiedNs: BigInt(modified.replace('.', '')),
      links: Number(links),
    });
    expect(factsOf(folder.path).kind).toBe('directory');
    expect(factsOf('/dev/null').kind).toBe('other');
  });

  it('tells nothing from refusal', () => {
    expect(factsIfAny(folder.file('nope'))).toBeUndefined();
    expect(() => factsOf(folder.file('nope'))).toThrow(/No such file or directory/);
    expect(() => factsIfAny(folder.file('x'.repeat(300)))).toThrow(/File name too long/);
  });

  it('sees through links', () => {
    writeFileSync(folder.file('one'), 'x');
    writeFileSync(folder.file('two'), 'x');
    linkSync(folder.file('one'), folder.file('hard'));
    symlinkSync('one', folder.file('soft'));
    expect(isSameFile(folder.file('one'), folder.file('hard'))).toBe(true);
    expect(isSameFile(folder.file('soft'), folder.file('hard'))).toBe(true);
    expect(isSameFile(folder.file('one'), folder.file('two'))).toBe(false);
    expect(isSameFile(folder.file('one'), folder.file('nope'))).toBe(false);
    mkdirSync(folder.file('pool'));
    symlinkSync('pool', folder.file('way'));
    expect(realPath(folder.file('soft'))).toBe(realPath(folder.file('one')));
    expect(realPath(folder.file('way/new'))).toBe(`${realPath(folder.file('pool'))}/new`);
    expect(() => realPath(folder.file('nope/new'))).toThrow(/No such file or directory/);
  });
});

describe('guards', () => {
  it('takes write bits and gives them back', () => {
    const path = folder.file('master');
    writeFileSync(path, 'x');
    setMode(path, 0o444);
    expect(statSync(path).mode % 0o1000).toBe(0o444);
    setMode(path, 0o664);
    expect(statSync(path).mode % 0o1000).toBe(0o664);
    expect(() => setMode(folder.file('nope'), 0o444)).toThrow(/No such file/);
  });

  it.skipIf(!libc() || !isRoot || !have('lsattr'))(
    'sets the immutable flag, which lsattr sees and even root obeys',
    async ({ skip }) => {
      const path = folder.file('master');
      writeFileSync(path, 'golden');
      if (isImmutable(path) === undefined) skip('the file system has no flags');
      const flags = async () => (await mustRun('lsattr', [path])).split(' ')[0];
      const before = await flags();
      expect(isImmutable(path)).toBe(false);
      setImmutable(path, true);
      try {
        expect(isImmutable(path)).toBe(true);
        expect(await flags()).toContain('i');
        expect(() => writeFileSync(path, 'x')).toThrow(/EPERM/);
        expect(() => renameSync(path, folder.file('moved'))).toThrow(/EPERM/);
        if (have('qemu-io')) {
          const { code } = await run('qemu-io', ['-f', 'raw', '-c', 'write 0 1', path]);
          expect(code).not.toBe(0);
        }
        setImmutable(path, true);
      } finally {
        setImmutable(path, false);
      }
      expect(await flags()).toBe(before);
      writeFileSync(path, 'writable again');
      expect(readFileSync(path, 'utf8')).toBe('writable again');
    },
  );

  it.skipIf(!libc() || !isRoot)('says where there is no such flag, and where it may not be set', async () => {
    const path = folder.file('master');
    writeFileSync(path, 'x');
    if (isImmutable(path) !== undefined) {
      process.seteuid!(65_534);
      try {
        expect(() => setImmutable(path, true)).toThrow(/Operation not permitted|Permission denied/);
      } finally {
        process.seteuid!(0);
      }
    }
    process.env.COWHERD_NO_KOFFI = '1';
    reloadLibc();
    try {
      expect(isImmutable(path)).toBeUndefined();
      expect(() => setImmutable(path, true)).toThrow(/without the optional package koffi/);
    } finally {
      delete process.env.COWHERD_NO_KOFFI;
      reloadLibc();
    }
  });
});

describe('spaceAt', () => {
  it('tells the room that df tells, before the file exists too', async () => {
    const [total] = (await mustRun('df', ['-B1', '--output=size', folder.path])).trim().split('\n').slice(1);
    const space = spaceAt(folder.file('not-yet'));
    expect(space.total).toBe(Number(total));
    expect(space.available).toBeGreaterThan(0);
    expect(space.available).toBeLessThanOrEqual(space.total);
    expect(() => spaceAt(folder.file('no/such'))).toThrow(/No such file/);
  });
});
