import { cpSync, mkdirSync } from 'node:fs';
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
});
