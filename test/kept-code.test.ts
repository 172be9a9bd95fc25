import { copyFileSync, cpSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { mustRun, type TempDir, tempDir } from './support/programs.ts';

interface Bundle {
  bundle(root: string, folder: string): Promise<void>;
}

const scripts = fileURLToPath(new URL('../scripts/', import.meta.url));

/** What scripts/bundle.mjs bundles, here of a few bytes each. */
const sources = [
  'cli/main.ts',
  'lab/main.ts',
  'nbd/main.ts',
  'nbd/worker.ts',
  'platform/cipher-worker.ts',
  'platform/argon2-worker.ts',
];

describe('what V8 compiled of a program (scripts/launch.cjs)', () => {
  let root: TempDir;
  beforeEach(async () => {
    root = await tempDir();
  });
  afterEach(() => root.remove());

  /** Builds programs that say `word`; answers the compiled code that is kept then. */
  async function build(word: string, folder: string): Promise<string[]> {
    for (const source of sources) {
      const path = root.file(join('src', source));
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, `export async function main() { console.log('${word}'); return 0; }\n`);
    }
    mkdirSync(root.file('scripts'), { recursive: true });
    copyFileSync(join(scripts, 'launch.cjs'), root.file('scripts/launch.cjs'));
    const { bundle } = (await import(join(scripts, 'bundle.mjs'))) as Bundle;
    await bundle(root.path, folder);
    const left = codeIn(folder);
    await mustRun(process.execPath, [join(scripts, 'code-cache.cjs'), folder, 'cow-img', 'any', 'x']);
    return left;
  }

  const codeIn = (folder: string) => readdirSync(folder).filter((name) => name.endsWith('.code'));
  const say = (folder: string) => mustRun(process.execPath, [join(folder, 'cow-img.cjs'), 'x']);

  it('is run in place of no other build of the same length', async () => {
    const [one, two] = [root.file('one'), root.file('two')];
    expect(await build('one', one)).toEqual([]);
    expect(await say(one)).toBe('one\n');
    expect(codeIn(one)).toHaveLength(1);
    // A build into the same folder,
    cpSync(one, two, { recursive: true });
    expect(await build('two', two)).toEqual([]);
    expect(await say(two)).toBe('two\n');
    // and one of which no code is kept, unpacked over it.
    await build('six', one);
    for (const name of readdirSync(one))
      if (name.endsWith('.cjs')) copyFileSync(join(one, name), join(two, name));
    expect(await say(two)).toBe('six\n');
  });
});
