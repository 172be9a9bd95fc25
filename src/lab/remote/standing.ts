import { basename } from 'node:path';
import { DiskError } from '../../errors.ts';
import { backingPathOf, type ImageHead, imageHead } from '../disks/overlay.ts';
import { domainName } from '../domain/domain-xml.ts';
import { otherDomainError } from '../domain/other-domains.ts';
import { seatOfExtraDisk } from '../seats/extra-disk-name.ts';
import type { Seat } from '../seats/seat.ts';
import { assertOwnDisks } from '../standing/release.ts';
import type { RemoteHost } from './host.ts';
import { headBytes } from './host-pool.ts';
import type { RemoteLab } from './lab.ts';
import { names } from './records.ts';

/*
 * Who stands on files of a host's folder: its other files, whatever they are called, and the host's domains, as their documents say.
 */

/** What need not be asked whether it is a file. */
const usualImage = /\.(qcow2|raw|iso)$/;

/** The heads of the files in a host's folder, by name; logs of seats and our own records aside. */
export async function headsOn(
  { pool }: Pick<RemoteHost, 'pool'>,
  files: Iterable<string>,
): Promise<ReadonlyMap<string, ImageHead>> {
  const looked = [...files].filter(
    (file) => !names.isCopyRecord(file) && !names.isPlacement(file) && !file.endsWith('.log'),
  );
  const heads = await Promise.all(
    looked.map(async (file) => {
      // A folder is a volume too, and reading one fails in the middle of the transfer.
      const isFolder = !usualImage.test(file) && (await pool.facts(file))?.isFolder;
      const bytes = isFolder ? undefined : await pool.read(file, headBytes);
      const sizes = { apparent: 0, allocated: 0 };
      return [file, imageHead(`${pool.path}/${file}`, bytes ?? new Uint8Array(), sizes)] as const;
    }),
  );
  return new Map(heads);
}

/** What is done with seats' disks: thrown away, or gone on with as they are. */
type Use = 'release' | 'use';

/**
 * Throws `in-use` where something stands on a disk of one of the seats, as a snapshot does, or their domains have other files in the
 * disks' places. For what throws disks away and for what writes to them. Changes nothing.
 */
export async function assertNobodyStandsThere(
  lab: RemoteLab,
  seats: readonly Seat[],
  use: Use,
): Promise<void> {
  await assertOwnDisks(seats, lab.runner);
  for (const [host, remote] of lab.hosts) {
    const own = seats.filter((seat) => seat.host === host);
    if (own.length > 0 && (await remote.pool.open(false))) await assertAlone(remote, own, use);
  }
}

async function assertAlone(remote: RemoteHost, seats: readonly Seat[], use: Use): Promise<void> {
  const { path } = remote.pool;
  const files = await remote.pool.list();
  const disks = [...files].filter((file) =>
    seats.some(({ name }) => file === names.disk(name) || isExtraOf(file, name)),
  );
  const paths = new Map(disks.map((file) => [`${path}/${file}`, file]));
  if (paths.size === 0) return;
  const others = [...files].filter((file) => use === 'use' || !paths.has(`${path}/${file}`));
  for (const [file, head] of await headsOn(remote, others)) {
    const on = paths.get(backingPathOf(head) ?? '');
    if (on !== undefined && on !== file) throw standsOn(remote, `${path}/${file}`, `${path}/${on}`, seats);
  }
  for (const { name, files: used } of await remote.domainsBeside(seats)) {
    const on = used.find((file) => paths.has(file));
    if (on !== undefined) throw otherDomainError({ uri: remote.host.uri, name }, { file: on, on });
  }
}

/** A copy of a master that is called as a seat is looks like an extra disk. */
function isExtraOf(file: string, seat: string): boolean {
  return seatOfExtraDisk(file) === seat && !names.isCopy(file);
}

function standsOn({ host }: RemoteHost, what: string, on: string, seats: readonly Seat[]): DiskError {
  const seat = seats.find(({ name }) => basename(on) === names.disk(name) || isExtraOf(basename(on), name))!;
  const virsh = `virsh -c '${host.uri}'`;
  return new DiskError('in-use', `On ${host.name}, '${what}' stands on '${on}'`, {
    path: on,
    detail: {
      fix: [
        `If it is a snapshot: '${virsh} blockcommit ${domainName(seat)} DISK --active --pivot', while the guest runs, brings it into the`,
        "seat's disk; if it can go, remove it (vol-delete)",
      ].join(' '),
    },
  });
}
