import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

/** For `import` in code that is bundled: the entry `cowherd/node`. */
export const nodeEntry = JSON.stringify(fileURLToPath(new URL('../../src/node.ts', import.meta.url)));

/** Bundles code and all that it imports into one file, as programs that use the library do; nothing lies beside it. */
export async function bundleFile(
  outfile: string,
  contents: string,
  format: 'esm' | 'cjs' = 'esm',
): Promise<string> {
  await build({
    stdin: { contents, resolveDir: fileURLToPath(new URL('../..', import.meta.url)), loader: 'ts' },
    outfile,
    bundle: true,
    platform: 'node',
    format,
    target: 'node20',
    logLevel: 'silent',
  });
  return outfile;
}
