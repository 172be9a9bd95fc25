import { spawn } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { mustRun } from '../support/programs.ts';
import type { LabBench } from './support.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** Bundles the programs into a folder of the bench, as users have them; gives the path of cowherd. */
export async function buildProgram(bench: LabBench): Promise<string> {
  const bin = bench.path('bin');
  await mustRun(process.execPath, [join(root, 'scripts/build.mjs'), '--programs', bin], { cwd: root });
  // Not by a link: gc keeps what may stand on a version, and looks into no folder that links lead to.
  for (const name of ['@koromix', 'koffi'])
    cpSync(join(root, 'node_modules', name), bench.path('node_modules', name), { recursive: true });
  return join(bin, 'cowherd.cjs');
}

export interface Ended {
  readonly code: number | null;
  readonly output: string;
  readonly ms: number;
}

/** Runs the program in the bench's folder; with `killAfter` it is killed (-9) then, unless it has ended. */
export function runProgram(
  program: string,
  bench: LabBench,
  args: readonly string[],
  killAfter?: number,
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const child = spawn(process.execPath, [program, ...args], {
      cwd: bench.dir.path,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1' },
    });
    let output = '';
    const hear = (piece: Buffer) => {
      output += piece.toString();
    };
    child.stdout.on('data', hear);
    child.stderr.on('data', hear);
    const timer = killAfter === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), killAfter);
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ code, output, ms: performance.now() - began });
    });
  });
}

/** The files that a user sees in a folder, by name. */
export function visibleFiles(folder: string): ReadonlyMap<string, Buffer> {
  const names = existsSync(folder) ? readdirSync(folder).filter((name) => !name.startsWith('.')) : [];
  return new Map(names.map((name) => [name, readFileSync(join(folder, name))]));
}

/** What is left of work that was interrupted, in the folder and its records. */
export function leftovers(folder: string): readonly string[] {
  return [folder, join(folder, '.cowherd')].flatMap((one) =>
    existsSync(one)
      ? readdirSync(one).filter((name) => name.endsWith('.part') || name.endsWith('.lock'))
      : [],
  );
}

/** Copies all visible files of one folder into another. */
export function copyFiles(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const name of visibleFiles(from).keys()) copyFileSync(join(from, name), join(to, name));
}

/** Names of visible files that are equal to none of the versions that they may have. */
export function strangeFiles(
  folder: string,
  versions: readonly ReadonlyMap<string, Buffer>[],
): readonly string[] {
  return [...visibleFiles(folder)].flatMap(([name, bytes]) =>
    versions.some((version) => version.get(name)?.equals(bytes)) ? [] : [name],
  );
}

/** Removes a folder as a user would who has lost patience. */
export function wipe(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
}
