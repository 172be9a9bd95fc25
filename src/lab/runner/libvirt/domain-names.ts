import { DiskError, isDiskError } from '../../../errors.ts';
import { domainName } from '../../domain/domain-xml.ts';
import type { Problem } from '../../plan.ts';
import type { Seat } from '../../seats/seat.ts';
import type { Virsh } from './virsh.ts';

/*
 * libvirt gives a name, and a UUID, to one domain only.
 */

/** Seats whose domains cannot be defined, since another domain has that name. Throws what virsh does, where it does not answer. */
export async function takenNames(
  virsh: Pick<Virsh, 'run'>,
  uri: string,
  seats: readonly Seat[],
): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  for (const seat of seats) {
    const name = domainName(seat);
    const uuid = await virsh.run('domuuid', name).catch((error: unknown) => {
      if (isDiskError(error, 'not-found') && error.field === 'virsh') return undefined;
      throw error;
    });
    if (uuid === undefined || uuid.trim() === seat.uuid) continue;
    problems.push({
      seat: seat.name,
      path: seat.definition,
      what: `${uri} has a domain '${name}' that is not this seat's, and libvirt takes no second one of that name for`,
      fix: `virsh -c '${uri}' domrename '${name}' OTHER-NAME, while it is off; or call the lab or the seat otherwise`,
    });
  }
  return problems;
}

/** A domain of ours that somebody has renamed keeps its UUID, and libvirt defines none of another name over it. */
export async function withNameFix(
  virsh: Pick<Virsh, 'run'>,
  uri: string,
  seat: Seat,
  error: DiskError,
): Promise<DiskError> {
  if (!/already defined with uuid/.test(error.message)) return error;
  const name = await virsh.run('domname', seat.uuid).catch(() => undefined);
  if (name === undefined || name === domainName(seat)) return error;
  return new DiskError(
    error.code,
    `Seat '${seat.name}' cannot be defined: its domain was renamed to '${name}'`,
    {
      path: seat.definition,
      detail: { fix: `virsh -c '${uri}' domrename '${name}' ${domainName(seat)}` },
    },
  );
}
