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

/** How long a program has to end when it is told to, and to take down what it put up. */
const endLimitMs = 20_000;

/**
 * Runs a program to its end. Throws `io` with its last words where it fails, and `aborted` when it has ended after a signal: until then it
 * may still write to its files.
 */
export function runTool(name: string, args: readonly string[], options: ToolOptions = {}): Promise<void> {
  const { cwd, signal, onText } = options;
  const interrupted = () => new DiskError('aborted', `${name} was interrupted`, { cause: signal?.reason });
  if (signal?.aborted) return Promise.reject(interrupted());
  return new Promise((resolve, reject) => {
    const child = spawn(findTool(name) ?? name, args, {
      cwd,
      env: { ...process.env, LC_ALL: 'C' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let limit: NodeJS.Timeout | undefined;
    const end = () => {
      child.kill('SIGTERM');
      limit = setTimeout(() => child.kill('SIGKILL'), endLimitMs);
    };
    signal?.addEventListener('abort', end, { once: true });
    const over = () => {
      clearTimeout(limit);
      signal?.removeEventListener('abort', end);
    };
    let said = '';
    child.stderr.on('data', (piece: Buffer) => {
      const text = piece.toString();
      said = (said + text).slice(-keptText);
      onText?.(text);
    });
    child.on('error', (cause) => {
      over();
      reject(new DiskError('not-found', `${name} cannot be started: ${cause.message}`, { cause }));
    });
    child.on('close', (code, killed) => {
      over();
      if (signal?.aborted) reject(interrupted());
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
