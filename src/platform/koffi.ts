import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { codeAddress } from './thread-file.ts';

export interface KoffiFunction {
  (...args: unknown[]): number | bigint;
  async(...args: unknown[]): void;
}

/** What we call of koffi, the package that calls C libraries. */
export interface Koffi {
  /** A library by its name, or with null what the process has loaded already. Throws where there is none. */
  load(
    path: string | null,
    options?: { readonly deep?: boolean },
  ): { func(definition: string): KoffiFunction };
  errno(): number;
}

/**
 * koffi, where it may be used; undefined where the system is not Linux on a 64-bit machine, or where COWHERD_NO_KOFFI=1 says
 * to do without. Throws where it is not installed.
 */
export function loadKoffi(): Koffi | undefined {
  if (process.env.COWHERD_NO_KOFFI === '1') return undefined;
  if (process.platform !== 'linux' || !['x64', 'arm64', 'riscv64'].includes(process.arch)) return undefined;
  return loadAddon() ?? (createRequire(codeAddress()!)('koffi') as Koffi);
}

/**
 * libzstd. Node has one of its own from 22.15 on and shows its functions to all that is loaded later: a system's library must
 * be told to call itself ("deep"), or it hands half of its work to another version, which wrecks memory. musl cannot tell it so;
 * there Node's own serves. Throws where there is none.
 */
export function loadZstd(koffi: Koffi): ReturnType<Koffi['load']> {
  if (process.versions.zstd !== undefined && systemLibrary() === 'musl') return koffi.load(null);
  return koffi.load('libzstd.so.1', { deep: true });
}

/**
 * The package's compiled half alone, which is all that we use: finding out which one fits takes the package's own modules
 * ten milliseconds, a sixth of what a short command takes. Undefined where it does not lie where this version has it.
 */
function loadAddon(): Koffi | undefined {
  try {
    const inPackages = `node_modules/@koromix/koffi-linux-${process.arch}/${systemLibrary()}_${process.arch}/koffi.node`;
    const addon: { exports: Partial<Koffi> } = { exports: {} };
    process.dlopen(addon, findAbove(dirname(fileURLToPath(codeAddress()!)), inPackages));
    const { load, errno } = addon.exports;
    return load && errno ? (addon.exports as Koffi) : undefined;
  } catch {
    return undefined;
  }
}

/** Looks for `path` in the folder and in those above it, as Node looks for packages. Throws where none has it. */
function findAbove(folder: string, path: string): string {
  for (let at = folder; ; at = dirname(at)) {
    const found = join(at, path);
    if (existsSync(found)) return found;
    if (at === dirname(at)) throw new Error('not installed');
  }
}

/** Which C library this program stands on, by the loader that its first bytes name: an addon for another one must not be tried. */
function systemLibrary(): 'linux' | 'musl' {
  const fd = openSync(process.execPath, 'r');
  try {
    const head = Buffer.alloc(4096);
    const text = head.toString('latin1', 0, readSync(fd, head, 0, head.length, 0));
    if (text.includes('/ld-musl-')) return 'musl';
    if (text.includes('/ld-linux-')) return 'linux';
    throw new Error('no loader that is known');
  } finally {
    closeSync(fd);
  }
}
