// Builds dist/: types and ESM modules by tsc, and one bundle a program by esbuild.
// `node scripts/build.mjs --programs [DIR]` makes only the bundles (fast), into DIR.
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const args = process.argv.slice(2);
const onlyPrograms = args[0] === '--programs';
const folder = onlyPrograms && args[1] ? args[1] : join(root, 'dist/programs');

/** A program, its source, and what it is run with to learn which of its code a start needs; in this order, in one folder. */
const programs = {
  'cow-img': {
    source: 'src/cli/main.ts',
    warmUp: [
      ...['create', '-q', '-f', 'qcow2', 'master.qcow2', '1M', '--'],
      ...['create', '-q', '-f', 'qcow2', '-b', 'master.qcow2', '-F', 'qcow2', 'seat.qcow2', '--'],
      ...['info', '--backing-chain', 'seat.qcow2', '--', 'info', '--output', 'json', 'seat.qcow2', '--'],
      ...['convert', '-O', 'qcow2', 'seat.qcow2', 'copy.qcow2', '--', 'check', 'copy.qcow2', '--'],
      ...['map', '--output', 'json', 'seat.qcow2', '--', 'measure', '-O', 'qcow2', 'seat.qcow2', '--'],
      ...['commit', '-q', 'seat.qcow2', '--', 'compare', '-q', 'master.qcow2', 'seat.qcow2'],
    ],
  },
  cowherd: {
    source: 'src/lab/main.ts',
    warmUp: [
      ...['up', 'lab.yaml', '--', 'status', 'lab.yaml', '--', 'reset', 'lab.yaml', 'all', '--'],
      ...['tree', 'master.qcow2', '--', 'down', 'lab.yaml'],
    ],
  },
  'cow-nbd': { source: 'src/nbd/main.ts', warmUp: ['--version'] },
};

/** What cowherd is run with. */
const lab = 'lab: warm-up\nmaster: master.qcow2\nseats: 2\npool: pool\nrunner: files\n';

/** Code of worker threads: NAME is found as `NAME.cjs` beside the bundles, its source as a module beside others in dist/. */
const threads = {
  'nbd-worker': 'src/nbd/worker.ts',
  'cipher-worker': 'src/platform/cipher-worker.ts',
  'argon2-worker': 'src/platform/argon2-worker.ts',
};

if (!onlyPrograms) {
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  const tsc = spawnSync(
    process.execPath,
    [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.build.json')],
    { stdio: 'inherit' },
  );
  if (tsc.status !== 0) process.exit(tsc.status ?? 1);
}

/** Modules of Node that take it milliseconds to load. Not one of them is needed to say what an image is. */
const heavy = [
  ...['child_process', 'crypto', 'fs/promises', 'http', 'https', 'net', 'readline', 'readline/promises'],
  ...['stream', 'stream/web', 'tls', 'worker_threads', 'zlib'],
];

/** Packages that few commands need, and one that asks for the standard output when it is loaded. */
const heavyPackages = ['@xmldom/xmldom', 'picocolors'];

/** Loads those when something of them is first used, and not when a module that may come to use it is. */
const loadLate = {
  name: 'load-late',
  setup(bundler) {
    const filter = new RegExp(`^(node:(${heavy.join('|')})|${heavyPackages.join('|')})$`);
    bundler.onResolve({ filter }, ({ path, namespace }) => {
      if (namespace !== 'late') return { path, namespace: 'late' };
      return path.startsWith('node:') ? { path, external: true } : undefined;
    });
    bundler.onLoad({ filter: /.*/, namespace: 'late' }, ({ path }) => {
      const names = Object.keys(createRequire(import.meta.url)(path));
      const getters = names.map((name) => `get ${name}() { return (own ??= require('${path}')).${name}; },`);
      const contents = `let own;\nmodule.exports = {\n${getters.join('\n')}\n};\n`;
      return { contents, loader: 'js', resolveDir: root };
    });
  },
};

mkdirSync(folder, { recursive: true });
const { build } = await import('esbuild');
await build({
  absWorkingDir: root,
  entryPoints: {
    ...Object.fromEntries(Object.entries(programs).map(([name, { source }]) => [`${name}.bundle`, source])),
    ...Object.fromEntries(Object.entries(threads).map(([name, source]) => [`${name}.bundle`, source])),
  },
  outdir: folder,
  outExtension: { '.js': '.cjs' },
  bundle: true,
  platform: 'node',
  // ES modules, of which only what is used comes along.
  mainFields: ['module', 'main'],
  format: 'cjs',
  target: 'node20',
  // Found at run time beside the package: native code, and code that reads a file beside itself.
  external: ['koffi', '@bokuweb/zstd-wasm'],
  plugins: [loadLate],
  define: { 'import.meta.url': '__moduleUrl' },
  // A module to `require`, and to the launcher, which evaluates it as a script, a function: see launch.cjs.
  banner: {
    js: [
      "((run) => (typeof module === 'object' ? run.call(exports, exports, require, module, __filename, __dirname) : run))(",
      'function (exports, require, module, __filename, __dirname) {',
      "const __moduleUrl = require('node:url').pathToFileURL(__filename).href;",
    ].join('\n'),
  },
  footer: { js: '})' },
  // V8 reads a file of one byte a character fastest, and the launcher as such; and it need not be long: half of a start is that.
  charset: 'ascii',
  minify: true,
  legalComments: 'linked',
  logLevel: 'warning',
});

copyFileSync(join(root, 'scripts/launch.cjs'), join(folder, 'launch.cjs'));
for (const name of Object.keys(programs)) {
  writeFileSync(
    join(folder, `${name}.cjs`),
    `#!/usr/bin/env node\nrequire('./launch.cjs').run('${name}');\n`,
    {
      mode: 0o755,
    },
  );
}
for (const name of Object.keys(threads)) {
  writeFileSync(join(folder, `${name}.cjs`), `require('./launch.cjs').runThread('${name}');\n`);
}
if (!onlyPrograms) keepCompiledCode();

/** Runs each program once and keeps what V8 compiled. A failure costs speed only, but says that a program is broken. */
function keepCompiledCode() {
  const scratch = mkdtempSync(join(tmpdir(), 'cowherd-build-'));
  writeFileSync(join(scratch, 'lab.yaml'), lab);
  const runs = { ...programs, 'nbd-worker': { warmUp: ['--thread'] } };
  for (const [name, { warmUp }] of Object.entries(runs)) {
    const maker = join(root, 'scripts/code-cache.cjs');
    const made = spawnSync(process.execPath, [maker, folder, name, ...warmUp], {
      cwd: scratch,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    if (made.status !== 0) {
      console.error(`${name} does not run`);
      process.exitCode = 1;
    }
  }
  rmSync(scratch, { recursive: true, force: true });
}
