import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { run, tempDir } from './support/programs.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

describe('a clone that is not built', () => {
  it.each(['cowherd', 'cow-img', 'cow-nbd'])('%s says how to build it', async (program) => {
    await using scratch = await tempDir();
    mkdirSync(join(scratch.path, 'clone'));
    cpSync(join(root, 'bin'), join(scratch.path, 'clone/bin'), { recursive: true });
    const { code, stderr } = await run(process.execPath, [
      join(scratch.path, `clone/bin/${program}.js`),
      '--version',
    ]);
    expect(code).toBe(1);
    expect(stderr).toContain(`${program}: Cowherd is not built here`);
    expect(stderr).toContain("'npm run build'");
    expect(stderr).not.toContain(' at ');
  });

  it.each([
    ['is built where npm packs it: npm install git+https://…', '/npm/_cacache/tmp/git-clone', true],
    ['is not built by npm ci', undefined, false],
  ])('%s', async (_, resolved, builds) => {
    await using scratch = await tempDir();
    for (const folder of ['scripts', 'src', 'node_modules']) mkdirSync(join(scratch.path, folder));
    for (const name of ['prepack.mjs', 'bootstrap.mjs'])
      cpSync(join(root, 'scripts', name), join(scratch.path, 'scripts', name));
    const built = join(scratch.path, 'built');
    writeFileSync(
      join(scratch.path, 'scripts/build.mjs'),
      `import { writeFileSync } from 'node:fs'; writeFileSync(${JSON.stringify(built)}, '');`,
    );
    writeFileSync(join(scratch.path, 'package-lock.json'), '{}');
    writeFileSync(join(scratch.path, 'node_modules/.package-lock.json'), '{}');
    const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    const [node, ...args] = scripts.prepare.split(' ');
    expect(node).toBe('node');
    const { code, stderr } = await run(process.execPath, args, {
      cwd: scratch.path,
      env: { npm_lifecycle_event: 'prepare', npm_package_resolved: resolved },
    });
    expect({ code, stderr, built: existsSync(built) }).toEqual({ code: 0, stderr: '', built: builds });
  });
});
