import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { DiskError } from '../../errors.ts';

/** What is kept of a program's last words. */
const keptText = 4000;

/** The program of that name on PATH, /usr/sbin or /sbin; undefined where there is none. */
export function findTool(name: string): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  for (const folder of folders.filter((one) => one !== '')) {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return join(folder, name);
    } catch {
      // The next folder may have it.
    }
  }
  return undefined;
}

/** Throws `not-found`, with what to install, where one of these programs (by their Debian packages) is not here. */
export function requireTools(tools: Readonly<Record<string, string>>): void {
  const missing = Object.keys(tools).filter((name) => findTool(name) === undefined);
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map((name) => tools[name]))];
  throw new DiskError('not-found', `This needs ${missing.join(', ')}`, {
    detail: { fix: `apt install ${packages.join(' ')}` },
  });
}

export interface ToolOptions {
  readonly cwd?: string;
  readonly signal?: AbortSignal;
  /** Told of each piece that the program prints on its standard error. */
  readonly onText?: (text: string) => void;
}

/** Runs a program to its end. Throws `io` with its last words where it fails, and `aborted`. */
export function runTool(name: string, args: readonly string[], options: ToolOptions = {}): Promise<void> {
  const { cwd, signal, onText } = options;
  return new Promise((resolve, reject) => {
    const child = spawn(findTool(name) ?? name, args, {
      cwd,
      signal,
      env: { ...process.env, LC_ALL: 'C' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.on('data', (piece: Buffer) => {
      const text = piece.toString();
      said = (said + text).slice(-keptText);
      onText?.(text);
    });
    child.on('error', (cause) => {
      if (signal?.aborted) reject(new DiskError('aborted', `${name} was interrupted`, { cause }));
      else reject(new DiskError('not-found', `${name} cannot be started: ${cause.message}`, { cause }));
    });
    child.on('close', (code, killed) => {
      if (signal?.aborted) reject(new DiskError('aborted', `${name} was interrupted`));
      else if (code === 0) resolve();
      else
        reject(
          new DiskError(
            'io',
            `${name} failed (${killed ?? `exit code ${code}`}): ${said.trim().split('\n').slice(-3).join('; ')}`,
          ),
        );
    });
  });
}
