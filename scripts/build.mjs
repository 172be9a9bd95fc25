// Builds dist/: types and ESM modules by tsc, and one bundle a program by esbuild.
// `node scripts/build.mjs --programs [DIR]` makes only the bundles (fast), into DIR.
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const args = process.argv.slice(2);
const onlyPrograms = args[0] === '--programs';
const programs = onlyPrograms && args[1] ? args[1] : join(root, 'dist/programs');

if (!onlyPrograms) {
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  const tsc = spawnSync(
    process.execPath,
    [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.build.json')],
    { stdio: 'inherit' },
  );
  if (tsc.status !== 0) process.exit(tsc.status ?? 1);
}

const { build } = await import('esbuild');
await build({
  absWorkingDir: root,
  entryPoints: {
    cowherd: 'src/lab/main.ts',
    'cow-img': 'src/cli/main.ts',
    'cow-nbd': 'src/nbd/main.ts',
  },
  outdir: programs,
  outExtension: { '.js': '.mjs' },
  bundle: true,
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  // Found at run time beside the package: native code, and code that reads a file beside itself.
  external: ['koffi', '@bokuweb/zstd-wasm'],
  banner: {
    js: "import { createRequire as __createRequire } from 'node:module';const require = __createRequire(import.meta.url);",
  },
  logLevel: 'warning',
});
