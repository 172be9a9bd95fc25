import { basename } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import type { DefinitionKind } from '../domain/definition.ts';
import { definitionOf } from '../domain/definition.ts';
import { templateFile } from '../domain/definition-kind.ts';
import { identities, seatUuid } from '../domain/identity.ts';
import {
  computeContent,
  type DigestOptions,
  inspectMaster,
  type Master,
  rememberedContent,
} from '../masters/master.ts';
import { nameForVersionsOf } from '../masters/name.ts';
import { HostsRunner } from '../runner/hosts-runner.ts';
import type { Seat } from '../seats/seat.ts';
import type { LabSpec } from '../spec/load.ts';
import { type HostView, newest, type PoolHost, placeOnHost, RemoteHost } from './host.ts';
import { type Replaced, settle } from './machines.ts';
import { readOwnRecord } from './own-record.ts';
import { type MasterCopy, names, type Placement } from './records.ts';
import { type LocatedSeat, sortOut } from './whereabouts.ts';

/** The lab file's hosts, where they keep their seats themselves; undefined for all other labs. */
export function hostsApart(spec: LabSpec): readonly PoolHost[] | undefined {
  const apart = spec.hosts?.filter((one): one is PoolHost => one.pool !== undefined) ?? [];
  return apart.length > 0 ? apart : undefined;
}

/** What new disks stand on. */
export interface RemoteMaster {
  readonly format: 'qcow2' | 'raw';
  /** Guest bytes. */
  readonly size: number;
  readonly content: string;
  /** The image, where it is on this machine. */
  readonly here?: Master;
}

/** Everything that is known of a lab by asking its hosts. */
export interface RemoteView {
  readonly hosts: readonly HostView[];
  /** Undefined: neither this machine nor a host knows one. */
  readonly master?: RemoteMaster;
  readonly placement?: Placement;
  /** Hosts of the lab file that are other machines than before. */
  readonly replaced: readonly Replaced[];
  /** Seats that domains tell of, by name, with their host's name. */
  readonly found: ReadonlyMap<string, LocatedSeat>;
  /** The same seats on other hosts again. */
  readonly twins: readonly LocatedSeat[];
}

/**
 * A lab whose hosts keep its seats in folders of their own, each with a copy of the master. This machine keeps nothing of it: all that
 * is known is asked of the hosts, so that another one with the same lab file knows as much. What it remembers counts only where no host of
 * the lab file has as new a record.
 */
export class RemoteLab implements AsyncDisposable {
  readonly spec: LabSpec;
  readonly hosts: ReadonlyMap<string, RemoteHost>;
  readonly runner: HostsRunner;
  readonly #definitions = new Map<string, string>();

  constructor(spec: LabSpec) {
    this.spec = spec;
    this.hosts = new Map(hostsApart(spec)!.map((host) => [host.name, new RemoteHost(host)]));
    const definition = (seat: Seat) => this.definitionOf(seat);
    this.runner = new HostsRunner(spec.hosts!, ({ name }) => placeOnHost(this.hosts.get(name)!, definition));
  }

  /** Asks all hosts, at the same time. With `digest` a master of this machine is read where its digest is not known. */
  async look(digest?: DigestOptions): Promise<RemoteView> {
    const hosts = await Promise.all([...this.hosts.values()].map((host) => host.look(this.spec.name)));
    const recorded = this.#recorded(newest(hosts.flatMap((one) => one.placement ?? [])));
    const seen = new Set(hosts.flatMap(({ seats }) => seats.map(({ name }) => name)));
    const { placement, replaced } = await settle(hosts, this.hosts, recorded, seen);
    const { found, twins } = sortOut(hosts, placement);
    return { hosts, placement, replaced, found, twins, master: await this.#master(placement, digest) };
  }

  /** The lab file's seats and those that were found besides, as they are on their hosts. Those without a host are left out. */
  seats(view: RemoteView, hostOf: ReadonlyMap<string, string>): Map<string, Seat> {
    const all = [...new Set([...this.spec.seats, ...view.found.keys()])];
    const identity = identities(this.spec.name, all);
    return new Map(
      all.flatMap((name) => {
        const host = this.hosts.get(view.found.get(name)?.host ?? hostOf.get(name) ?? '');
        return host ? [[name, this.#seat(name, identity.get(name)!, host, view)] as const] : [];
      }),
    );
  }

  /** A seat as it is on that host, whichever host else has it. */
  seatOn(view: RemoteView, name: string, host: string): Seat {
    const here = view.hosts.find((one) => one.host.name === host)?.seats.find((one) => one.name === name);
    const one = { name, uuid: seatUuid(this.spec.name, name), state: 'unknown' as const, ...here, host };
    return this.seats({ ...view, found: new Map([[name, one]]) }, new Map()).get(name)!;
  }

  /** The copy of a master that a host has. */
  copyOn(view: RemoteView, host: string, content: string): MasterCopy | undefined {
    return view.hosts.find((one) => one.host.name === host)?.copies.find((copy) => copy.content === content);
  }

  /** Makes the definitions of seats on a host that answers; `define` and `start` need them. */
  async prepareDefinitions(seats: Iterable<Seat>, view: RemoteView): Promise<void> {
    const kinds = new Map<string, DefinitionKind>();
    for (const seat of seats) {
      const host = seat.host!;
      const copy = seat.content && this.copyOn(view, host, seat.content);
      if (!kinds.has(host)) kinds.set(host, await this.#kind(host));
      const backing = copy && seat.master ? { path: seat.master, format: copy.format } : undefined;
      this.#definitions.set(seat.name, definitionOf(seat, { ...kinds.get(host)!, backing }));
    }
  }

  /** A seat as it is when its disk is made anew on the lab's master. */
  onMaster(seat: Seat, { content, format }: RemoteMaster): Seat {
    return { ...seat, content, master: this.#copyPath(seat.host!, content, format) };
  }

  /** What the copies of the lab's master are called on its hosts. */
  copyName({ content, format }: Pick<RemoteMaster, 'content' | 'format'>): string {
    return names.copy(nameForVersionsOf(basename(this.spec.master.path)), content, format);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.runner[Symbol.asyncDispose]();
    for (const host of this.hosts.values()) await host[Symbol.asyncDispose]();
  }

  /** The hosts' newest record, or a later one of the same lab that this machine saw: the lab file may name other hosts now. */
  #recorded(there: Placement | undefined): Placement | undefined {
    const own = readOwnRecord(this.spec);
    if (!there || !own) return there ?? own;
    const isSame = there.id === undefined || there.id === own.id;
    return isSame && own.revision > there.revision ? own : there;
  }

  #copyPath(host: string, content: string, format: 'qcow2' | 'raw'): string {
    return `${this.hosts.get(host)!.pool.path}/${this.copyName({ content, format })}`;
  }

  /** What `prepareDefinitions` made. */
  definitionOf(seat: Seat): string {
    const text = this.#definitions.get(seat.name);
    if (text !== undefined) return text;
    throw new DiskError('not-found', `Seat '${seat.name}' has no definition`, {
      detail: { fix: "'cowherd up' writes it" },
    });
  }

  async #kind(host: string): Promise<DefinitionKind> {
    const { template } = this.spec;
    const type = await this.runner.domainTypeOf(host);
    if (template === undefined) return { type };
    const given = this.spec.given;
    if ('file' in template) return { type, template: templateFile(this.spec, template.file) };
    const xml = await this.runner.domainXmlOn(host, template.domain);
    return { type, template: { name: `'${template.domain}'`, xml, given } };
  }

  #seat(
    name: string,
    { uuid, mac }: { readonly uuid: string; readonly mac: string },
    host: RemoteHost,
    view: RemoteView,
  ): Seat {
    const { spec } = this;
    const found = view.found.get(name);
    const at = (file: string) => `${host.pool.path}/${file}`;
    const seat: Seat = {
      lab: spec.name,
      name,
      uuid,
      mac,
      host: host.host.name,
      memoryMiB: spec.memoryMiB,
      cpus: spec.cpus,
      disk: { path: at(names.disk(name)), format: 'qcow2', bus: spec.disk.bus },
      network: spec.network,
      cdrom: spec.cdrom,
      seed: spec.seed && at(names.seed(name)),
      disks: spec.disks.map(({ name: disk, bus }) => ({
        path: at(names.extra(name, disk)),
        format: 'qcow2',
        bus,
      })),
      // No file: what the domain is made from is made of the lab file each time, and is the same on every machine.
      definition: at(`${name}.xml`),
      serialLog: at(names.log(name)),
      graphics: spec.graphics,
      firmware: spec.firmware,
      tpm: spec.tpm,
      content: found?.content,
      master: found?.master,
    };
    return found || !view.master ? seat : this.onMaster(seat, view.master);
  }

  async #master(placement: Placement | undefined, digest?: DigestOptions): Promise<RemoteMaster | undefined> {
    const { path, format } = this.spec.master;
    let here: Master;
    try {
      here = await inspectMaster(path, format);
    } catch (error) {
      // On a machine that has no master, what the hosts say of it is enough for most things.
      if (isDiskError(error, 'not-found')) return placement?.master;
      throw error;
    }
    if (
      here.files.length > 1 ||
      (here.format !== 'qcow2' && here.format !== 'raw') ||
      here.path.startsWith('/dev/')
    ) {
      throw new DiskError(
        'unsupported',
        `'${path}' cannot be copied to hosts: it must be one file, qcow2 or raw`,
        {
          path,
          detail: { fix: "'cowherd seal' makes one file of an image and all it stands on" },
        },
      );
    }
    const content = rememberedContent(here) ?? (digest && (await computeContent(here, digest)));
    if (content === undefined) return placement?.master;
    return { format: here.format, size: here.size, content, here };
  }
}
