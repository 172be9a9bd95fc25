import * as z from 'zod';

/** A host that seats run on. */
export interface LabHost {
  readonly name: string;
  /** libvirt's connection URI. */
  readonly uri: string;
  /** How many seats it gets, against the others' shares. */
  readonly share: number;
  /** Its folder for its seats and a copy of the master; undefined: pool and master are at the lab file's paths there. */
  readonly pool?: string;
}

const host = z.strictObject(
  {
    name: z.string({ error: "the host's name must be a text" }).regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$/, {
      error: "the host's name must be made of letters, digits, '.', '-' and '_'",
    }),
    libvirt: z
      .string({ error: "the host's libvirt must be a connection URI, such as qemu+ssh://root@a/system" })
      .regex(/^[a-z][a-z0-9+]*:\/\/[\x21-\x7e]*$/, {
        error: "the host's libvirt must be a connection URI, such as qemu+ssh://root@a/system",
      })
      .meta({ description: "libvirt's connection URI" }),
    share: z
      .number({ error: 'share must be a number' })
      .positive({ error: 'share must be more than 0' })
      .max(1000)
      .default(1)
      .meta({ description: "How many seats it gets, against the others' shares" }),
    pool: z
      .string({ error: "the host's pool must be an absolute path there" })
      .regex(/^\/[^\0\r\n]*[^\0\r\n/]$/, { error: "the host's pool must be an absolute path there" })
      .optional()
      .meta({
        description:
          'A folder of the host, that its seats and a copy of the master are kept in. Default: it has the pool and the master at the same paths as this machine',
      }),
  },
  { error: 'a host must be a mapping, such as {name: a, libvirt: "qemu+ssh://root@a/system"}' },
);

/** `hosts:` of the lab file. */
export const hostsSchema = z
  .array(host, { error: 'hosts must be a list, such as [{name: a, libvirt: "qemu:///system"}]' })
  .min(1, { error: 'hosts must name at least one' })
  .max(1000);

/**
 * Which host each seat is on: where it was before, listed or not; else the one with the fewest seats for its share, the first of those in
 * the list. Pure.
 */
export function placeSeats(
  seats: readonly string[],
  hosts: readonly LabHost[],
  before: ReadonlyMap<string, string | undefined>,
): ReadonlyMap<string, string> {
  const placed = new Map<string, string>();
  const load = new Map(hosts.map(({ name }) => [name, 0]));
  const put = (seat: string, host: string) => {
    placed.set(seat, host);
    load.set(host, load.get(host)! + 1);
  };
  for (const seat of seats) {
    const host = before.get(seat);
    if (host === undefined) continue;
    if (load.has(host)) put(seat, host);
    else placed.set(seat, host);
  }
  for (const seat of seats) {
    if (placed.has(seat)) continue;
    let best = hosts[0];
    for (const one of hosts)
      if ((load.get(one.name)! + 1) / one.share < (load.get(best.name)! + 1) / best.share) best = one;
    put(seat, best.name);
  }
  return placed;
}
