import { isDiskError } from '../../../errors.ts';
import type { Seat } from '../../seats/seat.ts';
import { labDomains } from './lab-domains.ts';
import type { Virsh } from './virsh.ts';

/** A domain, and every file that it uses: now, and where it is started next. */
export interface DomainFiles {
  readonly uuid: string;
  /** Its own, in libvirt. */
  readonly name: string;
  readonly files: readonly string[];
}

/**
 * Every domain of a libvirt but those of these UUIDs, with what it uses. One question for the list, and one or two for each, but those that
 * `labDomains` knows of the `lab`'s own.
 */
export async function domainsBeside(
  virsh: Pick<Virsh, 'run'>,
  uuids: ReadonlySet<string>,
  lab: readonly Seat[] = [],
): Promise<readonly DomainFiles[]> {
  const all = (await virsh.run('list', '--all', '--uuid')).split(/\s+/).filter((one) => one !== '');
  const beside = new Set(all.filter((uuid) => !uuids.has(uuid)));
  const known = await labDomains(
    virsh,
    lab.filter(({ uuid }) => beside.has(uuid)),
  );
  const found = await Promise.all([...beside].map((uuid) => known.get(uuid) ?? filesOf(virsh, uuid)));
  return found.flatMap((one) => one ?? []);
}

async function filesOf(virsh: Pick<Virsh, 'run'>, uuid: string): Promise<DomainFiles | undefined> {
  const now = await ifThere(virsh.run('dumpxml', uuid));
  if (now === undefined) return undefined;
  // A domain that runs has two documents: a disk may be attached for its next start only, or until its end.
  const next = /^\s*<domain [^>]*\bid=/.test(now)
    ? await ifThere(virsh.run('dumpxml', '--inactive', uuid))
    : '';
  const sources = sourcesIn(now + (next ?? ''));
  const files = await Promise.all(
    sources.map(({ file, dev, pool, volume }) => {
      if (pool === undefined || volume === undefined) return file ?? dev;
      // A volume of a pool that is not active has no path.
      return virsh.run('vol-path', '--pool', pool, volume).catch((error: unknown) => {
        if (isDiskError(error)) return undefined;
        throw error;
      });
    }),
  );
  const name = /<name>([^<]*)</.exec(now)?.[1];
  return {
    uuid,
    name: name ? unescaped(name) : uuid,
    files: [...new Set(files.flatMap((one) => one || []))],
  };
}

/**
 * The attributes of every `<source>` in documents as libvirt itself writes them (what it quotes and escapes, it does in one way):
 * disks, what they stand on, CD-ROMs, mirrors. To parse a thousand documents would take seconds.
 */
export function sourcesIn(xml: string): readonly Readonly<Record<string, string | undefined>>[] {
  return [...xml.matchAll(/<source\b([^>]*)>/g)].map(([, attributes]) =>
    Object.fromEntries(
      [...attributes.matchAll(/([\w:-]+)='([^']*)'/g)].map(([, key, value]) => [key, unescaped(value)]),
    ),
  );
}

const entities: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

function unescaped(text: string): string {
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (whole, hex, decimal, name) => {
    if (name !== undefined) return entities[name] ?? whole;
    return String.fromCodePoint(hex === undefined ? Number(decimal) : Number.parseInt(hex, 16));
  });
}

/** Undefined for a domain that is gone meanwhile. */
async function ifThere(xml: Promise<string>): Promise<string | undefined> {
  try {
    return await xml;
  } catch (error) {
    if (isDiskError(error, 'not-found') && error.field === 'virsh') return undefined;
    throw error;
  }
}
