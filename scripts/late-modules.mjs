// A plugin of esbuild: a module is a function that runs when something of it is first used, not when a module that may come to use
// it is loaded. A start runs a third of a program's modules, and V8 keeps compiled code of those alone (scripts/code-cache.cjs).
import childProcess from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** `root`: the folder with src/. `external`: packages that are found at run time. */
export function lateModules(esbuild, root, external) {
  const made = new Map();
  const once = (key, make) => {
    if (!made.has(key)) made.set(key, make());
    return made.get(key);
  };
  const names = packageNames(join(root, 'src'));
  return {
    name: 'late-modules',
    setup(bundler) {
      // Into a namespace of its own: that a file is CommonJS by now, esbuild would not believe of one in a package of ES modules.
      bundler.onResolve({ filter: /\.ts$/ }, async ({ path, resolveDir, kind, pluginData }) => {
        if (pluginData === plain) return undefined;
        const found = await bundler.resolve(path, { resolveDir, kind, pluginData: plain });
        return { path: found.path, errors: found.errors, namespace: 'module' };
      });
      bundler.onLoad({ filter: /.*/, namespace: 'module' }, async ({ path }) => ({
        contents: await once(path, async () => toLate(esbuild, path, await readFile(path, 'utf8'))),
        resolveDir: dirname(path),
      }));
      bundler.onResolve({ filter: /^[^./]/, namespace: 'module' }, ({ path, kind }) =>
        kind === 'dynamic-import' || path.startsWith('node:') || external.includes(path)
          ? undefined
          : { path, namespace: 'package' },
      );
      bundler.onLoad({ filter: /.*/, namespace: 'package' }, async ({ path }) => ({
        contents: await once(path, () => bundlePackage(esbuild, root, path, names.get(path))),
      }));
    },
  };
}

/** Says that a module is resolved by esbuild itself. */
const plain = Symbol('plain');

/**
 * A module as CommonJS: what it imports is required where it is first used, and what it exports are plain properties, functions
 * from the start on (modules that import each other need that).
 */
async function toLate(esbuild, path, source) {
  const fail = (what) => {
    throw new Error(`${path}: ${what} (scripts/late-modules.mjs)`);
  };
  if (/\bimport_|stdin_exports/.test(source)) fail('has a name that is used here');
  const options = { loader: 'ts', format: 'cjs', target: 'esnext', platform: 'neutral' };
  const { code } = await esbuild.transform(source, {
    ...options,
    define: { 'import.meta.url': '__moduleUrl' },
  });
  const [, afterHelpers] = code.split('var stdin_exports = {};\n');
  // It exports nothing.
  if (afterHelpers === undefined) return code;
  const exported = /^__export\(stdin_exports, \{\n((?: {2}\w+: \(\) => [\w.]+,?\n)*)\}\);\n/.exec(
    afterHelpers,
  );
  let body = afterHelpers
    .slice(exported?.[0].length ?? 0)
    .replace('module.exports = __toCommonJS(stdin_exports);\n', '');

  const first = [];
  const last = [];
  for (const [, name, value] of (exported?.[1] ?? '').matchAll(/^ {2}(\w+): \(\) => ([\w.]+),?$/gm)) {
    const isFunction = new RegExp(`^(async )?function\\*? ${value}\\(`, 'm').test(body);
    if (value.includes('.'))
      first.push(`Object.defineProperty(exports, '${name}', { get: () => ${value}, enumerable: true });`);
    else if (new RegExp(`^(let|var) ${value}\\b`, 'm').test(body)) fail(`exports ${name}, which changes`);
    else (isFunction ? first : last).push(`exports.${name} = ${value};`);
  }
  const imports = [];
  body = body.replace(/^var (\w+) = (?:__toESM\()?require\((".*?")\)\)?;\n/gm, (_, name, from) => {
    imports.push([name, from]);
    return '';
  });
  body = body.replace(
    /^__reExport\(stdin_exports, require\((".*?")\)(?:, module\.exports)?\);\n/gm,
    (_, from) => {
      first.push(
        `for (const [name, all] of ((all) => Object.keys(all).map((name) => [name, all]))(require(${from})))`,
      );
      first.push('  Object.defineProperty(exports, name, { get: () => all[name], enumerable: true });');
      return '';
    },
  );
  // What a module's table names is wanted when it is looked up: a format's checks and its creation, say.
  body = body.replace(/^ {2}(\w+): (import_\w+\.\w+)(,?)$/gm, '  get $1() { return $2; }$3');
  let text = [...first, body, ...last].join('\n');
  const atOnce = [];
  for (const [name, from] of imports) {
    const use = new RegExp(`\\b${name}\\b`, 'g');
    if (!name.startsWith('import_')) atOnce.push(`const ${name} = require(${from});`);
    // For what it does when it is loaded.
    else if (!use.test(text)) atOnce.push(`require(${from});`);
    else {
      atOnce.push(`let ${name};`);
      text = text.replace(use, `(${name} ??= require(${from}))`);
    }
  }
  if (/\b__(?:toESM|reExport|toCommonJS|export)\b|stdin_exports/.test(text))
    fail('is not written as expected by esbuild');
  return ["'use strict';", ...atOnce, text].join('\n');
}

/** A package as CommonJS, of which there is only what is used. */
async function bundlePackage(esbuild, root, name, used) {
  // Some of what a namespace has is a type only.
  const exported = Object.keys(await import(name)).filter((key) => used.has(key));
  const { outputFiles } = await esbuild.build({
    stdin: { contents: `export { ${exported.join(', ')} } from '${name}';`, resolveDir: root },
    bundle: true,
    write: false,
    platform: 'node',
    // ES modules, of which only what is used comes along.
    mainFields: ['module', 'main'],
    format: 'cjs',
    target: 'esnext',
    plugins: [lateChildren],
    legalComments: 'inline',
    logLevel: 'error',
  });
  return outputFiles[0].text;
}

/** commander asks for `child_process` when it is loaded, which takes milliseconds, for what nobody here uses. */
const lateChildren = {
  name: 'late-children',
  setup(bundler) {
    const name = 'node:child_process';
    bundler.onResolve({ filter: new RegExp(`^${name}$`), namespace: 'file' }, () => ({
      path: name,
      namespace: 'late',
    }));
    bundler.onLoad({ filter: /.*/, namespace: 'late' }, () => {
      const getters = Object.keys(childProcess).map(
        (key) => `get ${key}() { return require('${name}').${key}; },`,
      );
      return { contents: `module.exports = {\n${getters.join('\n')}\n};` };
    });
  },
};

/** What the modules in a folder use of each package that they import by a declaration. */
function packageNames(folder) {
  const names = new Map();
  for (const file of readdirSync(folder, { recursive: true })) {
    if (!file.endsWith('.ts') || file.endsWith('.test.ts')) continue;
    const source = readFileSync(join(folder, file), 'utf8');
    for (const [, what, from] of source.matchAll(/^import (?!type )([^;]*?) from '([^.:][^:']*)';$/gm)) {
      const used = names.get(from) ?? new Set();
      names.set(from, used);
      const space = /^\* as (\w+)$/.exec(what);
      if (space)
        for (const [, name] of source.matchAll(new RegExp(`\\b${space[1]}\\s*\\.\\s*(\\w+)`, 'g')))
          used.add(name);
      else if (!what.startsWith('{')) used.add('default');
      else
        for (const part of what.slice(1, -1).split(','))
          if (part.trim() && !part.trim().startsWith('type ')) used.add(part.trim().split(' ')[0]);
    }
  }
  return names;
}
