import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { mustRun } from './programs.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));

/**
 * Bundles the programs into `directory` as users have them, and links `name` (say `qemu-img`) to one of them. Answers
 * the arguments that start it: node and the link's path.
 */
export async function builtProgram(
  directory: string,
  program: 'cow-img' | 'cow-nbd' | 'cowherd',
  name: string,
): Promise<[string, string]> {
  await mustRun(process.execPath, [join(root, 'scripts/build.mjs'), '--programs', join(directory, 'bin')], {
    cwd: root,
  });
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
  symlinkSync(join(directory, 'bin', `${program}.cjs`), join(directory, name));
  return [process.execPath, join(directory, name)];
}
