import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { findQemu } from '../runner/qemu-command.ts';

const packages = ['qemu-system-x86', 'seabios'];
/** Mirrors may hang; the demo goes on without guests then. */
const limitMs = 180_000;

/** Whether QEMU is missing and this system and user can install it. */
export function canInstallQemu(): boolean {
  const choice = process.env.COWHERD_QEMU;
  return !choice && findQemu() === undefined && process.geteuid?.() === 0 && existsSync('/usr/bin/apt-get');
}

/**
 * Installs QEMU's system emulator from Debian's packages, asking nothing; answers whether it is there then. Never throws:
 * whoever has no network still sees the rest.
 */
export async function installQemu(signal: AbortSignal): Promise<boolean> {
  const install = [
    ...['install', '-y', '-qq', '--no-install-recommends'],
    // The index of manual pages takes minutes to rebuild, and nobody here reads it.
    ...['-o', 'Dpkg::Options::=--path-exclude=/usr/share/man/*'],
    ...packages,
  ];
  // The lists of packages may be there and new enough; if not, they are fetched.
  if (!(await apt(install, signal)) && (await apt(['update', '-qq'], signal))) await apt(install, signal);
  return findQemu() !== undefined;
}

function apt(args: readonly string[], signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const child = spawn('apt-get', args, {
      stdio: 'ignore',
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
      signal,
      timeout: limitMs,
    });
    child.on('error', () => resolve(false));
    child.on('exit', (code) => resolve(code === 0));
  });
}
