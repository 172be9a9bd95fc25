import { existsSync, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { CliFailure } from '../cli/failure.ts';
import { errnoOf, strerror } from '../platform/errno.ts';
import { nbdPort } from '../storage/nbd/protocol.ts';
import type { NbdServer } from './server.ts';

/** Where a server listens: a unix socket, TCP, or a socket that systemd has opened. */
export type Place =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: string }
  | { readonly kind: 'activated'; readonly fd: number };

const firstActivatedFd = 3;

/** How many sockets systemd hands over (sd_listen_fds(3)); 0: none. */
export function activatedSockets(env: Readonly<Record<string, string | undefined>>, pid: number): number {
  const { LISTEN_PID: forPid, LISTEN_FDS: count } = env;
  if (forPid === undefined || count === undefined || Number(forPid) !== pid) return 0;
  return /^[0-9]+$/.test(count) ? Number(count) : 0;
}

export function activatedPlace(): Place {
  return { kind: 'activated', fd: firstActivatedFd };
}

/** A port's number; a name of /etc/services is only the protocol's own. */
function portNumber(text: string): number | undefined {
  if (/^[0-9]+$/.test(text)) return Number(text) % 65536;
  return text === 'nbd' ? nbdPort : undefined;
}

/** Throws CliFailure in QEMU's words. */
export async function listenAt(server: NbdServer, place: Place): Promise<void> {
  if (place.kind === 'activated') {
    await server.listen({ fd: place.fd });
    return;
  }
  if (place.kind === 'unix') {
    removeSocket(place.path);
    try {
      await server.listen({ path: place.path });
    } catch (error) {
      // Node says EACCES for a folder that is not there.
      const why = existsSync(dirname(place.path)) ? reason(error) : strerror('ENOENT');
      throw new CliFailure(`Failed to bind socket to ${place.path}: ${why}`, { cause: error });
    }
    return;
  }
  const { host, port } = place;
  const number = portNumber(port);
  if (number === undefined) {
    throw new CliFailure(
      `address resolution failed for ${host}:${port}: Servname not supported for ai_socktype`,
    );
  }
  try {
    await server.listen({ host: host === '' ? undefined : host, port: number });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (code === 'ENOTFOUND' || code.startsWith('EAI_')) {
      throw new CliFailure(`address resolution failed for ${host}:${port}: Name or service not known`);
    }
    const what = code === 'EADDRINUSE' ? 'Failed to find an available port' : 'Failed to create a socket';
    throw new CliFailure(`${what}: ${reason(error)}`, { cause: error });
  }
}

/** A socket that was left there is in the way; so is any other file, as with QEMU. */
function removeSocket(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return;
    throw new CliFailure(`Failed to unlink socket ${path}: ${reason(error)}`, { cause: error });
  }
}

function reason(error: unknown): string {
  const name = errnoOf(error);
  return name === undefined ? String(error) : strerror(name);
}
