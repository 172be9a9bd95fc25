import { existsSync } from 'node:fs';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** Where this code lies, as an address: its module, or the one file that it was bundled into (CommonJS has no `import.meta`). */
export function codeAddress(): string | undefined {
  const address: string | undefined = import.meta.url;
  if (address !== undefined) return address;
  return typeof __filename === 'string' ? pathToFileURL(__filename).href : undefined;
}

/**
 * The code of a worker thread: a program bundle has it beside it, the modules beside this one. Undefined where there is none, so that
 * its work is done in this thread: run from source, or bundled into one file by somebody else.
 */
export function threadFile(name: string): URL | undefined {
  const address = codeAddress();
  if (!address?.startsWith('file:') || address.endsWith('.ts')) return undefined;
  const file = new URL(`./${name}${address.endsWith('.cjs') ? '.cjs' : '.js'}`, address);
  return existsSync(fileURLToPath(file)) ? file : undefined;
}
