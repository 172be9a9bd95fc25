import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Lower layers first. A file may import its own layer and those below. */
const layers: readonly (readonly [string, RegExp])[] = [
  ['errors', /^src\/errors\.ts$/],
  ['bytes', /^src\/bytes\//],
  // What the system offers; storage/file stands on it, and it on storage's interfaces.
  ['codecs, crypto, platform', /^src\/(codecs|crypto|platform)\//],
  ['storage', /^src\/storage\//],
  ['formats', /^src\/formats\//],
  ['image', /^src\/image\//],
  ['filesystems', /^src\/filesystems\//],
  ['operations, appliance', /^src\/(operations|appliance)\//],
  ['index', /^src\/index\.ts$/],
  ['node', /^src\/node\.ts$/],
  ['cli', /^src\/cli\//],
  ['nbd, lab', /^src\/(nbd|lab)\//],
];

/** Where modules of Node may be imported. */
const nodeAllowed = /^src\/(storage\/file[^/]*\.ts|node\.ts|platform\/|cli\/|nbd\/|lab\/)/;
const maxLines = 500;

interface Import {
  readonly target: string;
  readonly typeOnly: boolean;
}

/** Files of a folder of the repository, by their paths in it. */
function filesIn(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort();
}

const isTest = (path: string) => path.endsWith('.test.ts') || path.endsWith('.test-support.ts');

/** What a file imports: paths in the repository, or a module's name. */
function importsOf(path: string): Import[] {
  const text = withoutComments(readFileSync(join(root, path), 'utf8'));
  const found: Import[] = [];
  const statement = /(?:^|\n)\s*(?:import|export)\s+(type\s)?([^'"`;]*?\sfrom\s*)?['"]([^'"]+)['"]/g;
  for (const [, type, , target] of text.matchAll(statement))
    found.push({ target, typeOnly: type !== undefined });
  for (const [, target] of text.matchAll(/\bimport\(\s*['"]([^'"]+)['"]\s*\)/g)) {
    found.push({ target, typeOnly: false });
  }
  return found.map(({ target, typeOnly }) => ({
    target: target.startsWith('.') ? relative(root, join(root, dirname(path), target)) : target,
    typeOnly,
  }));
}

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '');
}

function layerOf(path: string): number {
  return layers.findIndex(([, pattern]) => pattern.test(path));
}

const sources = filesIn('src').filter((path) => !isTest(path));

describe('the architecture', () => {
  it('has a layer for every file', () => {
    expect(sources.length).toBeGreaterThan(50);
    expect(sources.filter((path) => layerOf(path) < 0)).toEqual([]);
  });

  it('imports point down only', () => {
    const wrong: string[] = [];
    for (const path of sources) {
      for (const { target, typeOnly } of importsOf(path)) {
        if (!target.startsWith('src/')) continue;
        const [from, to] = [layerOf(path), layerOf(target)];
        if (to <= from) continue;
        // Values of storage's interfaces are what platform works for; types cost nothing at run time.
        if (path.startsWith('src/platform/') && target.startsWith('src/storage/') && typeOnly) continue;
        wrong.push(`${path} imports ${target}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it('imports carry their extension and name files that exist', () => {
    const known = new Set(filesIn('src'));
    const wrong = sources.flatMap((path) =>
      importsOf(path)
        .filter(({ target }) => target.startsWith('src/') && !known.has(target))
        .map(({ target }) => `${path} imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  it('only the named places import modules of Node', () => {
    const wrong = sources.flatMap((path) =>
      nodeAllowed.test(path)
        ? []
        : importsOf(path)
            .filter(({ target }) => !target.startsWith('src/'))
            .map(({ target }) => `${path} imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  it('only the named places use globals of Node', () => {
    const wrong = sources.filter(
      (path) =>
        !nodeAllowed.test(path) &&
        /\b(Buffer\.|process\.|__dirname\b|require\()/.test(
          withoutComments(readFileSync(join(root, path), 'utf8')),
        ),
    );
    expect(wrong).toEqual([]);
  });

  it('both entries name the symbols of disposing before a class is made that has methods of these names', () => {
    for (const entry of ['src/index.ts', 'src/node.ts']) {
      expect(importsOf(entry)[0].target).toBe('src/bytes/dispose-symbols.ts');
    }
  });

  it('what the runtime-independent surface reaches is free of Node', () => {
    const reached = new Set<string>();
    const follow = (path: string) => {
      if (reached.has(path)) return;
      reached.add(path);
      for (const { target, typeOnly } of importsOf(path)) {
        if (!typeOnly && target.startsWith('src/')) follow(target);
        else if (!typeOnly) throw new Error(`${path} imports ${target}`);
      }
    };
    follow('src/index.ts');
    expect(reached.size).toBeGreaterThan(15);
    expect([...reached].filter((path) => nodeAllowed.test(path))).toEqual([]);
  });

  it(`no file has more than ${maxLines} lines`, () => {
    const long = [...filesIn('src'), ...filesIn('test')]
      .map((path) => [path, readFileSync(join(root, path), 'utf8').split('\n').length - 1] as const)
      .filter(([, lines]) => lines > maxLines);
    expect(long).toEqual([]);
  });
});
