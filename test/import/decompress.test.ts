import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, tempDir } from '../support/programs.ts';

async function convert(cwd: string, ...args: string[]) {
  const context = testContext({ program: 'cow-img', cwd, env: {}, columns: 120 });
  const code = await cowImg(['convert', '--decompress', ...args], context);
  return { code, err: context.err() };
}

const mebibyte = 1024 * 1024;

describe.skipIf(!have('qemu-img') || !have('xz'))('convert --decompress', () => {
  it('unpacks raw images as it reads them, and others by way of a file; qemu-img finds them equal', async () => {
    await using dir = await tempDir();
    const disk = Buffer.alloc(5 * mebibyte + 512);
    randomBytes(mebibyte).copy(disk, 3 * mebibyte);
    writeFileSync(dir.file('disk.raw'), disk);
    await mustRun('qemu-img', ['convert', '-O', 'qcow2', dir.file('disk.raw'), dir.file('disk.qcow2')]);
    for (const [program, name] of [
      ['gzip', 'disk.raw'],
      ['xz', 'disk.raw'],
      ['bzip2', 'disk.qcow2'],
      ['zstd', 'disk.qcow2'],
    ]) {
      await mustRun('sh', ['-c', `${program} -c ${name} > packed`], { cwd: dir.path });
      for (const format of ['qcow2', 'vmdk']) {
        const answer = await convert(dir.path, '-O', format, dir.file('packed'), dir.file('out'));
        expect(answer).toEqual({ code: 0, err: '' });
        await mustRun('qemu-img', [
          'compare',
          '-s',
          '-F',
          format,
          dir.file('disk.raw'),
          dir.file('out'),
        ]).catch(
          // -s asks for equal allocation as well, which formats with larger grains do not have.
          () => mustRun('qemu-img', ['compare', '-F', format, dir.file('disk.raw'), dir.file('out')]),
        );
      }
    }
    await mustRun('qemu-img', ['check', '-f', 'vmdk', dir.file('out')]);
    expect(readdirSync(dir.path).sort()).toEqual(['disk.qcow2', 'disk.raw', 'out', 'packed']);
  });

  it('leaves nothing behind, and what was there as it was, where the data is damaged', async () => {
    await using dir = await tempDir();
    writeFileSync(dir.file('disk.raw'), randomBytes(mebibyte));
    await mustRun('xz', ['-k', dir.file('disk.raw')]);
    truncateSync(dir.file('disk.raw.xz'), mebibyte - 100);
    writeFileSync(dir.file('out'), 'old');
    const answer = await convert(dir.path, '-O', 'qcow2', dir.file('disk.raw.xz'), dir.file('out'));
    expect(answer.code).toBe(1);
    expect(answer.err).toMatch(/Could not open '.*disk\.raw\.xz': The xz data is damaged at byte \d+: /);
    expect(readFileSync(dir.file('out'), 'utf8')).toBe('old');
    expect(readdirSync(dir.path).sort()).toEqual(['disk.raw', 'disk.raw.xz', 'out']);
  });

  it('refuses what is not packed, and an image inside that names another', async () => {
    await using dir = await tempDir();
    writeFileSync(dir.file('disk.raw'), Buffer.alloc(512));
    expect((await convert(dir.path, '-O', 'qcow2', dir.file('disk.raw'), dir.file('out'))).err).toContain(
      'not packed by gzip, xz, zstd or bzip2',
    );
    const clone = dir.file('clone.qcow2');
    await mustRun('qemu-img', ['create', '-qf', 'qcow2', '-b', dir.file('disk.raw'), '-F', 'raw', clone]);
    await mustRun('gzip', [clone]);
    const answer = await convert(dir.path, '-O', 'raw', `${clone}.gz`, dir.file('out'));
    expect(answer.code).toBe(1);
    expect(readdirSync(dir.path).sort()).toEqual(['clone.qcow2.gz', 'disk.raw']);
  });
});
