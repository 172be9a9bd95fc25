import { lstatSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { explain } from '../../cli/messages.ts';
import { DiskError } from '../../errors.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { isSameFile, nameExists } from '../disks/overlay.ts';
import { placeFiles } from '../disks/place-files.ts';
import { definitionOwner } from '../domain/definition.ts';
import { domainXml } from '../domain/domain-xml.ts';
import { assertNoOtherDomain } from '../domain/other-domains.ts';
import type { Lab } from '../lab.ts';
import { assertNotSavedIfAsked } from '../seats/saved-memory.ts';
import { placeOf, servedAt, serveSeats } from '../serve.ts';
import { type LabCommand, labFrom, locked, runnerOf, say, seatsFrom, shown, warn } from './command.ts';

/** `cowherd serve`: exports seats' disks by NBD until it is ended. */
export const run: LabCommand = async (input, context) => {
  const { lab, rest } = labFrom(input, context);
  const names = seatsFrom(lab, rest);
  const { definitions } = input.options;
  if (typeof definitions === 'string') {
    const folder = resolve(context.cwd, definitions);
    await writeDefinitions(lab, names, folder);
    say(context, `definitions for other hosts are in ${shown(context, folder)}`);
    return 0;
  }
  const place = placeOf(lab);
  // Under the lab's lock, so that no reset is half-way through these disks.
  const server = await locked(lab, async () => {
    await assertServable(lab, names);
    return await serveSeats(lab, names, {
      program: context.program,
      onRefused: (error) => warn(context, `a client was not let in: ${explain(error).text}`),
      onFailure: (error) => warn(context, `a client could not be served: ${String(error)}`),
    });
  });
  try {
    const where =
      place.kind === 'unix' ? place.path : place.kind === 'tcp' ? `${place.host}:${place.port}` : '';
    say(context, `serving ${names.length} seats at ${where}`);
    if (place.kind === 'tcp' && lab.spec.serve?.tls === undefined)
      warn(context, 'whoever reaches this address can read and write the seats: serve has no tls');
    await aborted(context.signal);
  } finally {
    await server.close();
    if (place.kind === 'unix') rmSync(place.path, { force: true });
  }
  return 0;
};

/**
 * Throws `in-use` where another domain of the lab's hypervisor uses one of the disks, or a memory was saved over one. A hypervisor that
 * does not answer keeps nobody from serving.
 */
async function assertServable(lab: Lab, names: readonly string[]): Promise<void> {
  await using runner = await runnerOf(lab);
  if ((await runner.unavailable()) !== undefined) return;
  const seats = names.map((name) => lab.seats.get(name)!);
  await assertNotSavedIfAsked(seats, runner);
  const disks = seats.map(({ disk }) => disk.path);
  await assertNoOtherDomain(disks, lab, runner);
}

/**
 * Writes the seats' definitions for other hosts, with what is served of them: nothing of this host's. Throws `exists`, before anything is
 * written, for the lab's own pool and for files that are no such definitions.
 */
async function writeDefinitions(lab: Lab, names: readonly string[], folder: string): Promise<void> {
  const served = servedAt(lab);
  makeFolder(folder);
  if (isSameFile(folder, lab.pool)) {
    throw new DiskError('exists', `'${folder}' is the lab's own pool: its definitions are for this host`, {
      path: folder,
      detail: { fix: 'name another folder' },
    });
  }
  const paths = names.map((name) => ({ seat: lab.seats.get(name)!, path: join(folder, `${name}.xml`) }));
  for (const { seat, path } of paths) assertOwnDefinition(lab, seat.name, path);
  await placeFiles(
    paths.map(({ seat, path }) => {
      // No server gives these. A CD-ROM is the lab file's, which says where it lies on every host.
      const { seed: _, disks: __, ...rest } = seat;
      const text = domainXml(rest, { type: 'kvm', served });
      return { path, content: () => new TextEncoder().encode(text) };
    }),
    { replace: true },
  );
}

/** Throws `exists` where something else is in a definition's place, or a link, through which another file would be written. */
function assertOwnDefinition(lab: Lab, seat: string, path: string): void {
  if (!nameExists(path)) return;
  const isLink = lstatSync(path).isSymbolicLink();
  const owner = isLink ? undefined : definitionOwner(path, lab.name, seat);
  // One of a seat in a pool has no network disk.
  if (owner?.kind === 'ours' && owner.text.includes('protocol="nbd"')) return;
  throw new DiskError(
    'exists',
    `'${path}' is ${isLink ? 'a link' : 'no definition for other hosts'}, and stays`,
    {
      path,
      detail: { fix: 'move it away, or name another folder' },
    },
  );
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) done();
    signal.addEventListener('abort', () => done(), { once: true });
  });
}
