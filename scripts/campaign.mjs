// `node scripts/campaign.mjs crash|fuzz FOLDER [COUNT] [SEED]`: the power-cut simulator over COUNT states, or the fuzzer
// over COUNT inputs (default 1,000,000). FOLDER keeps what is done: a run that was ended goes on there, and several may
// work at once. `report FOLDER` only adds up. Finds are in FOLDER/failures.txt; exit code 1 says that there are some.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { installPackages, root, run } from './bootstrap.mjs';

const [kind, folder] = process.argv.slice(2);
if (!['crash', 'fuzz', 'report'].includes(kind) || folder === undefined) {
  console.error('usage: node scripts/campaign.mjs crash|fuzz|report FOLDER [COUNT] [SEED]');
  process.exit(2);
}
installPackages();
// Beside the packages that it loads. A bundle of its own, so that the sources may change while it runs.
const bundle = join(root, `node_modules/.campaign-${process.pid}.mjs`);
await build({
  entryPoints: [join(root, 'test/campaign/main.ts')],
  outfile: bundle,
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  sourcemap: 'inline',
  external: ['koffi', 'esbuild'],
  banner: {
    js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);",
  },
  // The fuzzer bundles its worker from the sources.
  define: {
    'import.meta.url': JSON.stringify(new URL(`file://${join(root, 'test/fuzz/run-fuzz.ts')}`).href),
  },
  logLevel: 'error',
});
try {
  // Much is short-lived: a larger nursery saves an eighth of the time.
  const flags = ['--enable-source-maps', '--max-semi-space-size=64'];
  process.exitCode = run(process.execPath, [...flags, bundle, ...process.argv.slice(2)]);
} finally {
  rmSync(bundle, { force: true });
}
