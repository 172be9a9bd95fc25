import { statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { CliFailure } from '../cli/failure.ts';
import { TlsObjects } from '../cli/tls-objects.ts';
import { wipe } from '../crypto/bytes.ts';
import { DiskError } from '../errors.ts';
import { listenAt, type Place } from '../nbd/listen.ts';
import type { ExportRecipe } from '../nbd/recipe.ts';
import { NbdServer, type NbdServerOptions } from '../nbd/server.ts';
import { tlsStarter } from '../nbd/tls.ts';
import { errnoOf } from '../platform/errno.ts';
import type { ServedAt } from './domain/domain-xml.ts';
import type { Lab } from './lab.ts';
import { seatPassphrase } from './seats/seat-key.ts';
import { assertNothingAbove } from './standing/release.ts';
import { seatsToStart } from './start.ts';

/** The name of the master's export. */
export const masterExport = 'master';

/** Where the lab file says that the seats are served. */
export function placeOf({ spec, pool, name }: Lab): Place {
  const { listen, socket } = spec.serve ?? {};
  if (listen === undefined) return { kind: 'unix', path: socket ?? join(pool, `${name}.nbd`) };
  const [host, port] = splitAddress(listen);
  return { kind: 'tcp', host, port };
}

/** Where other hosts find that. */
export function servedAt(lab: Lab): ServedAt {
  const place = placeOf(lab);
  const { tls, host } = lab.spec.serve ?? {};
  if (place.kind === 'unix') return { socket: place.path, tls: tls !== undefined };
  if (place.kind !== 'tcp') throw new Error('A lab has no sockets from systemd');
  const name = host ?? place.host;
  if (name === '0.0.0.0' || name === '::') {
    throw lab.spec.mistake(
      ['serve'],
      `other hosts do not find this one as ${name}`,
      'add for example: host: herd.example.org',
    );
  }
  return { host: name, port: Number(place.port), tls: tls !== undefined };
}

function splitAddress(listen: string): [host: string, port: string] {
  const at = listen.lastIndexOf(':');
  return [listen.slice(0, at).replace(/^\[|\]$/g, ''), listen.slice(at + 1)];
}

/**
 * Serves the disks of seats as NBD exports by the seats' names, and the master read-only. The images are open as long as
 * it is: QEMU's locks keep guests of this host, and resets, away from them. Encrypted ones are served in the clear. Throws as
 * `seatsToStart`, `assertNothingAbove` and `seatPassphrase` do, and `locked` for a seat that is in use.
 */
export async function serveSeats(
  lab: Lab,
  names: readonly string[],
  how: { readonly program: string } & Required<Pick<NbdServerOptions, 'onRefused' | 'onFailure'>>,
): Promise<NbdServer> {
  const seats = await seatsToStart(lab, names);
  assertNothingAbove(
    seats.map(({ disk }) => disk.path),
    lab,
  );
  const { serve } = lab.spec;
  const server = new NbdServer({
    startTls: serve?.tls === undefined ? undefined : tlsStarter(credentialsOf(serve.tls), undefined),
    onRefused: how.onRefused,
    onFailure: how.onFailure,
  });
  try {
    for (const seat of seats) {
      const { path, encryption } = seat.disk;
      const passphrase = encryption && (await seatPassphrase(encryption));
      const keys = passphrase && new Map([[path, passphrase]]);
      try {
        await server.add({ ...seatRecipe(seat, how.program), keys });
      } finally {
        // The thread that serves it has it open by now: nobody opens what is written a second time.
        wipe(passphrase);
      }
    }
    if (serve?.master !== false) await server.add(masterRecipe(lab, how.program));
    const place = placeOf(lab);
    if (place.kind === 'unix') await assertFree(place.path);
    await listenAt(server, place);
  } catch (error) {
    await server.close();
    if (!(error instanceof CliFailure)) throw error;
    throw error.cause instanceof DiskError
      ? error.cause
      : new DiskError('io', error.message, { cause: error });
  }
  server.start();
  return server;
}

/** A socket that a server left behind is in nobody's way. Throws `exists` and `in-use`. */
async function assertFree(path: string): Promise<void> {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return;
  if (!stat.isSocket()) throw new DiskError('exists', `'${path}' is no socket, and stays`, { path });
  const answers = await new Promise<boolean>((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // Nobody listens, or it went meanwhile. Any other trouble, as of a queue that is full, is a server's.
    socket.once('error', (error) => resolve(!['ECONNREFUSED', 'ENOENT'].includes(errnoOf(error) ?? '')));
  });
  if (answers) throw new DiskError('in-use', `Somebody serves at '${path}' already`, { path });
}

function seatRecipe(
  { name, lab, disk }: { name: string; lab: string; disk: { path: string; format: string } },
  program: string,
): ExportRecipe {
  return {
    program,
    name,
    description: `${name} of ${lab}`,
    filename: disk.path,
    format: disk.format,
    readOnly: false,
    discard: true,
    multiConn: true,
  };
}

function masterRecipe({ spec, name }: Lab, program: string): ExportRecipe {
  const { path, format } = spec.master;
  return {
    program,
    name: masterExport,
    description: `the master of ${name}`,
    filename: path,
    format,
    readOnly: true,
    multiConn: true,
  };
}

function credentialsOf(folder: string) {
  const objects = new TlsObjects();
  // The server's certificate may be of another authority than the clients' are: QEMU's check would not have that.
  const how = 'endpoint=server,verify-peer=on,sanity-check=off';
  objects.take(`tls-creds-x509,id=lab,${how},dir=${folder.replaceAll(',', ',,')}`);
  return objects.credentials('lab', 'server');
}
