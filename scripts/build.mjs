// Builds dist/: types and ESM modules by tsc, one bundle a program by esbuild (bundle.mjs), and what V8 compiles of each (keep-code.mjs).
// `node scripts/build.mjs --programs [DIR]` makes only the bundles (fast), into DIR.
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundle } from './bundle.mjs';
import { keepCode } from './keep-code.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const args = process.argv.slice(2);
const onlyPrograms = args[0] === '--programs';
const folder = onlyPrograms && args[1] ? args[1] : join(root, 'dist/programs');

if (!onlyPrograms) {
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  const tsc = spawnSync(
    process.execPath,
    [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.build.json')],
    { stdio: 'inherit' },
  );
  if (tsc.status !== 0) process.exit(tsc.status ?? 1);
}
await bundle(root, folder);
if (!onlyPrograms && !keepCode(root, folder)) process.exitCode = 1;
