import { isDiskError } from '../../../errors.ts';
import type { Seat } from '../../seats/seat.ts';
import type { DomainFiles } from './domain-files.ts';
import type { Virsh } from './virsh.ts';

/** So many documents are read as fast as the list of what all domains have. */
const fewDomains = 8;

/**
 * What the domains of these seats have that are off, by their UUIDs: one question for all of them, where a document each would take a second
 * for a thousand. Those that run (what they have next is in their documents alone), or that have something without a path (a volume of a
 * pool; a drive with nothing in it) are not among them, nor any where libvirt's driver does not tell.
 */
export async function labDomains(
  virsh: Pick<Virsh, 'run'>,
  seats: readonly Seat[],
): Promise<ReadonlyMap<string, DomainFiles>> {
  const found = new Map<string, DomainFiles>();
  if (seats.length <= fewDomains) return found;
  let said: string;
  let off: string;
  try {
    off = await virsh.run('list', '--inactive', '--uuid', '--name');
    said = await virsh.run('domstats', '--block', '--list-inactive', '--raw');
  } catch (error) {
    if (isDiskError(error)) return found;
    throw error;
  }
  const names = new Map(off.split('\n').map((line) => [line.slice(0, 36), line.slice(37).trimEnd()]));
  const files = pathsIn(said);
  for (const { uuid } of seats) {
    const name = names.get(uuid);
    const paths = name === undefined ? undefined : files.get(name);
    if (paths) found.set(uuid, { uuid, name: name!, files: paths });
  }
  return found;
}

/** Paths of each domain's disks and drives; domains that have one without, or are told of oddly, are left out. */
function pathsIn(said: string): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, readonly string[]>();
  for (const part of said.split(/^Domain: /m).slice(1)) {
    const [first, ...lines] = part.trimEnd().split('\n');
    const name = /^'(.*)'$/.exec(first)?.[1];
    const values = new Map<string, string>();
    let odd = false;
    for (const line of lines) {
      const [, key, value] = /^ {2}([\w.-]+)=(.*)$/.exec(line) ?? [];
      // A path of more than one line.
      if (key === undefined) odd = true;
      else values.set(key, value);
    }
    const count = Number(values.get('block.count') ?? Number.NaN);
    if (name === undefined || odd || !Number.isInteger(count)) continue;
    const paths = Array.from({ length: count }, (_, i) => values.get(`block.${i}.path`));
    if (paths.every((path) => path !== undefined)) found.set(name, paths as string[]);
  }
  return found;
}
