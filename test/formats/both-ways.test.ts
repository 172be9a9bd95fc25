import { writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectSame, readAll } from '../contract/model.ts';
import { mustRun, run, type TempDir, tempDir } from '../support/programs.ts';
import { cow, fileOf, kinds, long, openKind, optionsOf, padded, qemuIsThere, shapes } from './kinds.ts';

describe.skipIf(!qemuIsThere)('images of every format', () => {
  let dir: TempDir;
  beforeAll(async () => {
    dir = await tempDir('cowherd-formats-');
    for (const [index, { make }] of shapes.entries()) await writeFile(dir.file(`shape-${index}`), make());
  });
  afterAll(() => dir.remove());

  it.each(kinds)('$name: QEMU reads what we write, and we read what it writes', async (kind) => {
    const { format } = kind;
    const { path: cwd } = dir;
    for (const [index, { name, make }] of shapes.entries()) {
      const shape = dir.file(`shape-${index}`);
      const [ours, theirs] = [fileOf(cwd, kind, `o${index}`), fileOf(cwd, kind, `q${index}`)];
      await cow('convert', '-f', 'raw', '-O', format, ...optionsOf(kind), shape, ours);
      const compared = await run('qemu-img', ['compare', '-f', 'raw', '-F', format, shape, ours], { cwd });
      expect([compared.code, compared.stderr], `${name}: ${compared.stdout}`).toEqual([0, '']);
      const checked = await run('qemu-img', ['check', '-q', '-f', format, ours], { cwd });
      expect([0, 63], `${name}: ${checked.stderr}`).toContain(checked.code);
      await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', format, ...optionsOf(kind), shape, theirs], {
        cwd,
      });
      await using image = await openKind(theirs, kind);
      expectSame(await readAll(image), padded(make(), image.size), name);
      expect(image.size - make().length, 'rounded up by less than a cluster').toBeLessThan(1 << 20);
    }
  });

  // Each pair where it is asked for; else each format three times as a source, and three times as a target.
  const steps = long ? kinds.map((_, index) => index) : [1, 4, 7];
  it.each(kinds)('$name: is converted into others, as qemu-img finds by comparing', async (from) => {
    await using own = await tempDir('cowherd-pairs-');
    const { path: cwd } = own;
    const source = fileOf(cwd, from, 'm');
    await cow('convert', '-f', 'raw', '-O', from.format, ...optionsOf(from), dir.file('shape-0'), source);
    for (const step of steps) {
      const to = kinds[(kinds.indexOf(from) + step) % kinds.length];
      const target = fileOf(cwd, to, 't');
      await cow(...['convert', '-f', from.format, '-O', to.format, ...optionsOf(to)], ...[source, target]);
      const formats = ['-f', from.format, '-F', to.format];
      const compared = await run('qemu-img', ['compare', ...formats, source, target], { cwd });
      expect(compared, `${from.name} to ${to.name}`).toMatchObject({
        code: 0,
        stdout: 'Images are identical.\n',
      });
    }
  });
});
