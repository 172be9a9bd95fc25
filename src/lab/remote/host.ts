import { setTimeout as sleep } from 'node:timers/promises';
import { DOMParser } from '@xmldom/xmldom';
import { DiskError, isDiskError } from '../../errors.ts';
import { metadataNamespace } from '../domain/domain-xml.ts';
import { seatUuid } from '../domain/identity.ts';
import { domainDisks } from '../runner/libvirt/domain-disks.ts';
import { type DomainFiles, domainsBeside } from '../runner/libvirt/domain-files.ts';
import { seatState } from '../runner/libvirt/domain-state.ts';
import { savedDomains } from '../runner/libvirt/saved-domains.ts';
import type { SeatPlace } from '../runner/libvirt/seat-place.ts';
import { Virsh } from '../runner/libvirt/virsh.ts';
import { isOff, type SeatState } from '../runner/runner.ts';
import type { Seat } from '../seats/seat.ts';
import type { LabHost } from '../spec/hosts.ts';
import { HostPool } from './host-pool.ts';
import type { Need } from './placement.ts';
import {
  longestRecord,
  type MasterCopy,
  names,
  type Placement,
  parseCopy,
  parsePlacement,
} from './records.ts';

/** A host with a pool of its own. */
export type PoolHost = LabHost & { readonly pool: string };

/** A seat as a host's domain tells of it. */
export interface FoundSeat {
  readonly name: string;
  readonly uuid: string;
  readonly state: SeatState;
  /** `contentDigest` of the master that its disk stands on. */
  readonly content?: string;
  /** The master's path on the host. */
  readonly master?: string;
  /** Of the definition's text. */
  readonly digest?: string;
  /** What its definition was called when the domain was made from it: it begins with the folder of its files. */
  readonly from?: string;
}

/** What is on a host. */
export interface HostView {
  readonly host: PoolHost;
  /** Why it does not answer; nothing else is known then. */
  readonly down?: string;
  readonly free?: Need;
  readonly seats: readonly FoundSeat[];
  /** Paths of masters that domains of any lab stand on. */
  readonly standing: ReadonlySet<string>;
  /** Those of them that other domains than the lab's stand on. */
  readonly standingBeside: ReadonlySet<string>;
  readonly files: ReadonlySet<string>;
  readonly copies: readonly MasterCopy[];
  readonly placement?: Placement;
}

const logPollMs = 500;

/** A host's libvirt and its folder. */
export class RemoteHost implements AsyncDisposable {
  readonly host: PoolHost;
  readonly pool: HostPool;
  readonly #virsh: Virsh;

  constructor(host: PoolHost) {
    this.host = host;
    this.pool = new HostPool(host.uri, host.pool);
    this.#virsh = new Virsh({ uri: host.uri });
  }

  /** Looks at all that is a lab's. A host that does not answer is told of, and no error. */
  async look(lab: string): Promise<HostView> {
    const nothing = {
      host: this.host,
      seats: [],
      standing: new Set<string>(),
      standingBeside: new Set<string>(),
      files: new Set<string>(),
      copies: [],
    };
    try {
      await this.#virsh.run('uri');
    } catch (error) {
      if (!isDiskError(error)) throw error;
      return { ...nothing, down: error.message };
    }
    const domains = await this.#domains();
    // A clone of a seat's domain says the same of itself, under a UUID of its own: it is nobody's.
    const seats = domains.filter((one) => one.lab === lab && one.uuid === seatUuid(lab, one.name));
    const standing = new Set(domains.flatMap(({ master }) => master ?? []));
    const others = domains.filter((one) => !seats.includes(one));
    const standingBeside = new Set(others.flatMap(({ master }) => master ?? []));
    if (!(await this.pool.open(false))) return { ...nothing, seats, standing, standingBeside };
    const files = await this.pool.list();
    return {
      ...nothing,
      seats,
      standing,
      standingBeside,
      files,
      copies: await this.#copies(files),
      placement: await this.#placement(lab, files),
    };
  }

  /** The record of who is where that counts on this host at this moment. */
  async placement(lab: string): Promise<Placement | undefined> {
    return await this.#placement(lab, await this.pool.list());
  }

  /** The copies of masters that are whole at this moment. */
  async copies(): Promise<readonly MasterCopy[]> {
    return await this.#copies(await this.pool.list());
  }

  /** The host's domains that are none of these seats. */
  domainsBeside(seats: readonly Seat[]): Promise<readonly DomainFiles[]> {
    return domainsBeside(this.#virsh, new Set(seats.map(({ uuid }) => uuid)));
  }

  /** The machine's UUID, by which two names of one host are known. */
  async machine(): Promise<string | undefined> {
    return /<host>\s*<uuid>([^<]+)</.exec(await this.#virsh.run('capabilities'))?.[1];
  }

  /** Whether there is a domain of that UUID. */
  async hasDomain(uuid: string): Promise<boolean> {
    const uuids = await this.#virsh.run('list', '--all', '--uuid');
    return uuids.split(/\s+/).includes(uuid);
  }

  /** Whether the seat's domain has its serial port written to the seat's log. */
  async writesLog(seat: Seat): Promise<boolean> {
    const xml = await this.#virsh.run('dumpxml', seat.uuid).catch(noMetadata);
    return domainDisks(xml).logs.includes(seat.serialLog);
  }

  /** Memory and disk that are free. A folder that is not there yet is made with `make`, else it is as if it had room without end. */
  async free(make: boolean): Promise<Need> {
    const open = await this.pool.open(make);
    const said = await this.#virsh.run('nodememstats');
    const kib = (key: string) => Number(new RegExp(`^${key} *: +(\\d+) KiB`, 'm').exec(said)?.[1] ?? 0);
    return {
      memory: (kib('free') + kib('buffers') + kib('cached')) * 1024,
      disk: open ? await this.pool.free() : Number.MAX_SAFE_INTEGER,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#virsh[Symbol.asyncDispose]();
    await this.pool[Symbol.asyncDispose]();
  }

  /** Every domain that says that it is a seat, of whatever lab. */
  async #domains(): Promise<readonly (FoundSeat & { lab: string })[]> {
    const uuids = (await this.#virsh.run('list', '--all', '--uuid')).split(/\s+/).filter((one) => one !== '');
    const found = await Promise.all(
      uuids.map(async (uuid) => {
        const mark = markOf(await this.#virsh.run('metadata', uuid, metadataNamespace).catch(noMetadata));
        if (!mark) return [];
        const state = seatState(await this.#virsh.run('domstate', '--reason', uuid).catch(() => ''));
        return [{ ...mark, uuid, state }];
      }),
    );
    const domains = found.flat();
    // Asked for after the states: whatever was running then is not taken for off now.
    const saved = domains.some(({ state }) => isOff(state)) ? await savedDomains(this.#virsh) : new Set();
    return domains.map((one) => (isOff(one.state) && saved.has(one.uuid) ? { ...one, state: 'saved' } : one));
  }

  /** A record counts where its file is there, with that many bytes and that date. */
  async #copies(files: ReadonlySet<string>): Promise<readonly MasterCopy[]> {
    const copies: MasterCopy[] = [];
    for (const file of files) {
      if (!names.isCopyRecord(file)) continue;
      const bytes = await this.pool.read(file, longestRecord);
      const copy = bytes && parseCopy(bytes);
      const facts = copy && (await this.pool.facts(copy.file));
      if (copy && facts && facts.size === copy.bytes && facts.mtime === copy.mtime) copies.push(copy);
    }
    return copies;
  }

  async #placement(lab: string, files: ReadonlySet<string>): Promise<Placement | undefined> {
    const known = [...files].filter((file) => names.placementRevision(lab, file) !== undefined);
    const read = await Promise.all(known.map((file) => this.pool.read(file, longestRecord)));
    return newest(
      read.flatMap((bytes) => (bytes && parsePlacement(bytes)) ?? []).filter((one) => one.lab === lab),
    );
  }
}

/** The record that counts. */
export function newest(placements: readonly Placement[]): Placement | undefined {
  return [...placements].sort((a, b) => b.revision - a.revision)[0];
}

/** It has none, or it is gone meanwhile. Any other failure tells nothing: a seat that is not seen would be made anew elsewhere. */
function noMetadata(error: unknown): string {
  if (isDiskError(error) && (error.code === 'not-found' || /metadata/i.test(error.message))) return '';
  throw error;
}

function markOf(metadata: string): (Omit<FoundSeat, 'uuid' | 'state'> & { lab: string }) | undefined {
  if (metadata === '') return undefined;
  const document = new DOMParser({ onError: () => undefined }).parseFromString(metadata, 'text/xml');
  const get = (key: string) => document.documentElement?.getAttribute(key) ?? undefined;
  const [lab, name] = [get('lab'), get('name')];
  if (lab === undefined || name === undefined) return undefined;
  return {
    lab,
    name,
    content: get('content'),
    master: get('master'),
    digest: get('digest'),
    from: get('from'),
  };
}

/** Where a runner finds what it needs of seats whose files are on the host: definitions are made of the lab file, logs read there. */
export function placeOnHost({ pool }: RemoteHost, definition: (seat: Seat) => string): SeatPlace {
  const read = async (seat: Seat) => {
    await pool.open(false);
    await pool.factsNow(names.log(seat.name));
    return (await pool.read(names.log(seat.name))) ?? new Uint8Array();
  };
  return {
    definition,
    isGone: () => false,
    prepareLog: () => undefined,
    async logFacts(seat) {
      await pool.open(false);
      const facts = await pool.factsNow(names.log(seat.name));
      return facts && facts.size > 0 ? `${facts.size} ${facts.mtime}` : '';
    },
    async *follow(seat, more, signal) {
      let at = 0;
      for (;;) {
        const goOn = more ? await more() : false;
        const bytes = await read(seat);
        if (bytes.length < at) at = 0;
        if (bytes.length > at) yield bytes.subarray(at);
        at = bytes.length;
        if (!goOn) return;
        await sleep(logPollMs, undefined, { signal }).catch(() => undefined);
        if (signal?.aborted) throw new DiskError('aborted', `Stopped reading what '${seat.name}' says`);
      }
    },
  };
}
