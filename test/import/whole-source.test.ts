import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowherd } from '../../src/lab/cowherd.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, type TempDir, tempDir } from '../support/programs.ts';

const mebibyte = 1024 * 1024;

describe.skipIf(!have('qemu-img'))('what is copied for good', () => {
  let dir: TempDir;
  const path = (...names: string[]) => join(dir.path, ...names);

  async function command(...args: string[]) {
    const [first, ...rest] = args;
    const piped = first === 'pipe' ? readFileSync(path(rest[0])) : undefined;
    const stdin = (async function* () {
      if (piped) yield piped;
    })();
    const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120, stdin });
    const code = await cowherd(piped ? ['import', '-', ...rest.slice(1)] : args, context);
    return { code, err: context.err() };
  }

  /** The ways to make a copy of a file; what is said besides comes last. */
  const ways = [
    (file: string, ...more: string[]) => ['import', file, '-o', 'made.qcow2', ...more],
    (file: string, ...more: string[]) => ['build', 'made', '--from', file, '--anyway', ...more],
    (file: string, ...more: string[]) => ['seal', file, '--name', 'made', '--anyway', ...more],
  ];

  async function refusedByAll(file: string, why: RegExp): Promise<void> {
    for (const way of ways) {
      // Packed images are for import and build.
      if (file.endsWith('.gz') && way(file)[0] === 'seal') continue;
      const { code, err } = await command(...way(file));
      expect([way(file)[0], file, code, err]).toEqual([
        way(file)[0],
        file,
        expect.any(Number),
        expect.stringMatching(why),
      ]);
      expect(code).not.toBe(0);
      expect([existsSync(path('made.qcow2')), versions()]).toEqual([false, []]);
    }
  }

  const versions = () =>
    existsSync(path('masters')) ? readdirSync(path('masters')).filter((name) => !name.startsWith('.')) : [];

  beforeAll(async () => {
    dir = await tempDir('cowherd-whole-');
    await makeDemoMaster(path('demo.raw'), { size: 8 * mebibyte, payloadBytes: 6 * mebibyte });
  });
  afterAll(() => dir.remove());

  it.each(['qcow2', 'vdi', 'vmdk', 'vpc', 'vhdx', 'qed', 'parallels'])(
    'refuses a cut %s image, and takes a whole one',
    async (format) => {
      const whole = `whole.${format}`;
      await mustRun('qemu-img', ['convert', '-O', format, path('demo.raw'), path(whole)]);
      for (const way of ways) expect(await command(...way(whole))).toMatchObject({ code: 0 });
      await mustRun('rm', ['-rf', path('masters'), path('made.qcow2')]);
      const size = readFileSync(path(whole)).length;
      for (const [index, lost] of [3 * mebibyte, 100_000, 1000].entries()) {
        const cut = `cut-${index}.${format}`;
        await mustRun('cp', [path(whole), path(cut)]);
        truncateSync(path(cut), size - lost);
        await refusedByAll(cut, /cut off|damaged|truncated/i);
        const piped = await command('pipe', cut, '-o', 'made.qcow2');
        expect([piped.code === 0, existsSync(path('made.qcow2'))]).toEqual([false, false]);
      }
    },
  );

  it('refuses what is no disk by any sign, unless it is told that it is raw', async () => {
    const page = `<html><body>404 not found</body></html>\n${' '.repeat(4096)}`;
    for (const name of ['page.qcow2', 'page.raw', 'page.img']) writeFileSync(path(name), page);
    writeFileSync(path('page.gz'), gzipSync(page));
    writeFileSync(path('zeroes.img'), Buffer.alloc(mebibyte));
    writeFileSync(path('empty.qcow2'), '');
    writeFileSync(path('odd.img'), Buffer.concat([readFileSync(path('demo.raw')), Buffer.alloc(100)]));
    for (const name of ['page.qcow2', 'page.raw', 'page.img', 'page.gz', 'zeroes.img', 'odd.img'])
      await refusedByAll(name, /no image of a known format/);
    await refusedByAll('empty.qcow2', /is empty/);
    for (const way of ways) {
      expect(await command(...way('zeroes.img', '--format', 'raw'))).toMatchObject({ code: 0 });
    }
    await mustRun('rm', ['-rf', path('masters'), path('made.qcow2')]);
  });

  it('takes raw disks by what they begin with', async () => {
    for (const way of ways) expect(await command(...way('demo.raw'))).toMatchObject({ code: 0 });
    await mustRun('rm', ['-rf', path('masters'), path('made.qcow2')]);
    if (!have('mkfs.ext4')) return;
    writeFileSync(path('fs.img'), Buffer.alloc(mebibyte));
    await mustRun('mkfs.ext4', ['-q', path('fs.img')]);
    for (const way of ways) expect(await command(...way('fs.img'))).toMatchObject({ code: 0 });
  });
});
