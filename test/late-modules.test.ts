import { readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Script } from 'node:vm';
import * as esbuild from 'esbuild';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TempDir, tempDir } from './support/programs.ts';

interface LateModules {
  lateModules(bundler: typeof esbuild, root: string, external: readonly string[]): esbuild.Plugin;
}

const root = fileURLToPath(new URL('../', import.meta.url));
const plugin = new URL('../scripts/late-modules.mjs', import.meta.url).href;
const external = ['koffi', '@bokuweb/zstd-wasm'];

/** Bundles a module of that text (other modules by their absolute paths) as the programs are; gives a function that runs it anew. */
async function bundle(folder: string, text: string): Promise<() => Record<string, unknown>> {
  const { lateModules } = (await import(plugin)) as LateModules;
  const entry = join(folder, 'entry.ts');
  writeFileSync(entry, text);
  const { outputFiles } = await esbuild.build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    platform: 'node',
    format: 'cjs',
    target: 'node20',
    external,
    plugins: [lateModules(esbuild, root, external)],
    logLevel: 'silent',
  });
  const address = JSON.stringify(new URL('../src/node.ts', import.meta.url).href);
  const script = new Script(
    `(function (module, require) { const exports = module.exports, __moduleUrl = ${address};\n${outputFiles[0].text}\n})`,
  );
  const require = createRequire(join(root, 'src/node.ts'));
  return () => {
    const module = { exports: {} };
    script.runInThisContext()(module, require);
    return module.exports;
  };
}

describe('modules that run when they are first used (scripts/late-modules.mjs)', () => {
  let folder: TempDir;
  beforeEach(async () => {
    folder = await tempDir();
  });
  afterEach(() => folder.remove());

  it('may each be the first one to run', async () => {
    const modules = (readdirSync(join(root, 'src'), { recursive: true }) as string[]).filter(
      (name) => name.endsWith('.ts') && !/(\.test|worker)\.ts$/.test(name),
    );
    const lines = modules.map((name) => `'${name}': () => import('${join(root, 'src', name)}'),`);
    const run = await bundle(folder.path, `export const load = {\n${lines.join('\n')}\n};\n`);
    expect(modules.length).toBeGreaterThan(400);
    for (const name of modules) {
      const { load } = run() as { load: Record<string, () => Promise<object>> };
      const missing = Object.entries(await load[name]()).filter(([, value]) => value === undefined);
      expect([name, missing]).toEqual([name, []]);
    }
  });

  it('run at their first use, and once', async () => {
    const one = join(folder.path, 'one.ts');
    writeFileSync(
      one,
      "(globalThis as any).ran.push('one'); export const one = 1; export function two() { return 2; }",
    );
    const run = await bundle(
      folder.path,
      [
        `import { one, two } from '${one}';`,
        "(globalThis as any).ran = ['entry'];",
        'export const table = {\n  one: one,\n};',
        'export const sum = () => one + two();',
      ].join('\n'),
    );
    const { sum, table } = run() as { sum: () => number; table: { one: number } };
    const ran = (globalThis as { ran?: string[] }).ran;
    expect(ran).toEqual(['entry']);
    expect(sum()).toBe(3);
    expect(sum()).toBe(3);
    expect(table.one).toBe(1);
    expect(ran).toEqual(['entry', 'one']);
  });

  it('may not export what changes', async () => {
    const one = join(folder.path, 'one.ts');
    writeFileSync(one, 'export let count = 0;\nexport function more() { count++; }');
    await expect(bundle(folder.path, `export { count, more } from '${one}';`)).rejects.toThrow(
      'exports count, which changes',
    );
  });
});
