// One file a program, and one a kind of worker thread, with what starts them.
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as esbuild from 'esbuild';
import { lateModules } from './late-modules.mjs';

const programs = { 'cow-img': 'src/cli/main.ts', cowherd: 'src/lab/main.ts', 'cow-nbd': 'src/nbd/main.ts' };

/** Code of worker threads: NAME is found as `NAME.cjs` beside the bundles, its source as a module beside others in dist/. */
const threads = {
  'nbd-worker': 'src/nbd/worker.ts',
  'cipher-worker': 'src/platform/cipher-worker.ts',
  'argon2-worker': 'src/platform/argon2-worker.ts',
};

/** Found at run time beside the package: native code, and code that reads a file beside itself. */
const external = ['koffi', '@bokuweb/zstd-wasm'];

/** Bundles what is in `root` into `folder`. */
export async function bundle(root, folder) {
  mkdirSync(folder, { recursive: true });
  const sources = Object.entries({ ...programs, ...threads });
  const { outputFiles } = await esbuild.build({
    write: false,
    absWorkingDir: root,
    entryPoints: Object.fromEntries(sources.map(([name, source]) => [`${name}.bundle`, source])),
    outdir: folder,
    outExtension: { '.js': '.cjs' },
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node20',
    external,
    plugins: [lateModules(esbuild, root, external)],
    // A module to `require`, and to the launcher, which evaluates it as a script, a function: see launch.cjs.
    banner: {
      js: [
        "((run) => (typeof module === 'object' ? run.call(exports, exports, require, module, __filename, __dirname) : run))(",
        'function (exports, require, module, __filename, __dirname) {',
        "const __moduleUrl = require('node:url').pathToFileURL(__filename).href;",
      ].join('\n'),
    },
    footer: { js: '})' },
    // V8 reads a file of one byte a character fastest, and the launcher as such; and it need not be long.
    charset: 'ascii',
    minify: true,
    legalComments: 'linked',
    logLevel: 'warning',
  });
  // Code of an earlier build, which is of no use to this one.
  const code = new RegExp(`^(${sources.map(([name]) => name).join('|')})\\..*\\.code$`);
  for (const name of readdirSync(folder)) if (code.test(name)) rmSync(join(folder, name));
  for (const { path, contents } of outputFiles) {
    // A line that no other bundle begins with: see launch.cjs.
    const build = createHash('sha256').update(contents).digest('hex').slice(0, 16);
    writeFileSync(
      path,
      path.endsWith('.cjs') ? Buffer.concat([Buffer.from(`// ${build}\n`), contents]) : contents,
    );
  }
  copyFileSync(join(root, 'scripts/launch.cjs'), join(folder, 'launch.cjs'));
  const start = (name, text, mode) => writeFileSync(join(folder, `${name}.cjs`), text, { mode });
  for (const name of Object.keys(programs)) {
    start(name, `#!/usr/bin/env node\nrequire('./launch.cjs').run('${name}');\n`, 0o755);
  }
  for (const name of Object.keys(threads))
    start(name, `require('./launch.cjs').runThread('${name}');\n`, 0o644);
}
