import { DiskError } from '../../errors.ts';
import { domainName } from '../domain/domain-xml.ts';
import type { Seat } from '../seats/seat.ts';
import type { RemoteHost } from './host.ts';
import type { RemoteLab } from './lab.ts';
import { assertReplaceable, diskPlace, removeSeatFiles } from './seat-files.ts';

/**
 * Removes a seat from its host: its domain, then its files, of which `files` lists those of the folder. Gives the names of what was
 * removed. Throws `exists` before anything goes where the disk in its place is not the lab's, and where its domain stays: it is
 * somebody else's then, and so may be the disk. The caller has seen that it is off, and that nobody stands on its disk.
 */
export async function removeSeat(
  lab: RemoteLab,
  remote: RemoteHost,
  seat: Seat,
  files: ReadonlySet<string>,
): Promise<readonly string[]> {
  const owner = { lab: lab.spec.name, seat: seat.name };
  assertReplaceable(await diskPlace(remote, owner.lab, owner.seat), owner.lab, owner.seat);
  const log = await remote.writesLog(seat);
  await lab.runner.undefine(seat);
  if (await remote.hasDomain(seat.uuid)) {
    const { name, uri } = remote.host;
    throw new DiskError(
      'exists',
      `${name} still has the domain of ${seat.name}: it was not made in this folder`,
      {
        path: remote.pool.path,
        detail: { fix: `look at it: virsh -c '${uri}' dumpxml ${domainName(seat)}` },
      },
    );
  }
  return await removeSeatFiles(remote, files, { ...owner, log });
}
