import { rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError, isDiskError } from '../../../errors.ts';
import { createPrivateFolder, type ScratchFolder } from '../../../platform/scratch-folder.ts';
import { isSameFile } from '../../disks/overlay.ts';
import { type DomainType, domainName, metadataNamespace } from '../../domain/domain-xml.ts';
import { type Problem, problemError } from '../../plan.ts';
import type { Seat } from '../../seats/seat.ts';
import { disksOf } from '../../seats/seat-key.ts';
import { alreadyRunning } from '../qemu-start.ts';
import {
  type Beside,
  type ConsoleOptions,
  isDown,
  isOff,
  type OtherDomain,
  otherDiskError,
  type Runner,
  type SeatEnd,
  type SeatState,
  type StartOptions,
  type StopOptions,
  type WaitOptions,
} from '../runner.ts';
import { Autostart } from './autostart.ts';
import { besideSeats } from './beside-seats.ts';
import { failed, unreachable } from './complaints.ts';
import { defaultUri } from './default-uri.ts';
import { domainDisks } from './domain-disks.ts';
import { DomainEvents } from './domain-events.ts';
import { domainsBeside } from './domain-files.ts';
import { takenNames, withNameFix } from './domain-names.ts';
import { assertNamesDisk, DomainOwners } from './domain-owners.ts';
import { tellSecret } from './domain-secret.ts';
import { seatEnd, seatState } from './domain-state.ts';
import { findDomainType } from './domain-type.ts';
import { type DefinitionMark, definitionDigest, markDefinition, markIn } from './marked-definition.ts';
import { SavedDomains, savedDomains } from './saved-domains.ts';
import { onThisMachine, type SeatPlace } from './seat-place.ts';
import { Virsh } from './virsh.ts';

export interface LibvirtRunnerOptions {
  /** libvirt's connection URI; default: `defaultUri()`. */
  readonly uri?: string;
  /** The program; default: `virsh` on PATH. */
  readonly virsh?: string;
  /** Default: what the hypervisor offers, and for one on this machine, what was found to work. */
  readonly domainType?: DomainType;
  /** Where definitions and serial logs are; default: on this machine. */
  readonly place?: SeatPlace;
}

/** How often the list of running domains is asked for, while anybody waits for a change in it … */
const pollMs = 150;
/** … and where libvirt tells of changes by itself. */
const toldPollMs = 2_000;
/** How often who watches looks where libvirt has not told of anything yet. */
const untoldPollMs = 500;
const killLimitMs = 20_000;
/** How long libvirt's word of an end that the list of domains shows already may take. */
const toldLateMs = 1_000;
/** How long who waits for guests goes on without libvirt: it may be starting anew, which guests do not notice. */
const outageMs = 20_000;

/**
 * Guests as libvirt domains, over one virsh. A domain is ours when its metadata names the definition file that it was
 * made from, or one where our pool lay before (`domain-owners.ts`); no other is ever changed, started or removed.
 */
export class LibvirtRunner implements Runner {
  readonly name = 'libvirt';
  readonly boots = true;
  readonly uri: string;
  readonly #virsh: Virsh;
  readonly #place: SeatPlace;
  readonly #owners: DomainOwners;
  readonly #events: DomainEvents;
  #domainType: Promise<DomainType> | undefined;
  /** The running domains' UUIDs, asked for together by all who wait. */
  #active: { readonly at: number; readonly uuids: Promise<ReadonlySet<string>> } | undefined;
  readonly #saved: SavedDomains;
  readonly #autostart: Autostart;
  /** Of each seat that was asked about, what its domain has as disks. */
  readonly #disks = new Map<string, readonly string[]>();
  /** What libvirt's schema says of the first definition; the other seats' differ from it in names alone. */
  #schemaLook: Promise<unknown> | undefined;
  /** Seats whose last run was over before libvirt had greeted them: it takes these for failed. */
  readonly #brief = new Set<string>();
  /** Of files on their way to virsh. */
  #folder: ScratchFolder | undefined;

  constructor(options: LibvirtRunnerOptions = {}) {
    this.uri = options.uri ?? defaultUri();
    this.#virsh = new Virsh({ uri: this.uri, program: options.virsh });
    this.#saved = new SavedDomains(this.#virsh);
    this.#place = options.place ?? onThisMachine;
    this.#owners = new DomainOwners(this.#place);
    this.#autostart = new Autostart(this.#virsh, this.#place === onThisMachine);
    this.#events = new DomainEvents({
      uri: this.uri,
      program: options.virsh,
      onEvent: () => {
        this.#active = undefined;
        this.#saved.forget();
      },
    });
    if (options.domainType) this.#domainType = Promise.resolve(options.domainType);
  }

  async unavailable(): Promise<string | undefined> {
    try {
      await this.#virsh.run('uri');
      return undefined;
    } catch (error) {
      return unreachable(this.uri, error).message;
    }
  }

  domainType(): Promise<DomainType> {
    this.#domainType ??= findDomainType(this.#virsh, this.uri);
    return this.#domainType;
  }

  async domainXml(name: string): Promise<string> {
    return this.#virsh.run('dumpxml', '--inactive', '--security-info', name);
  }

  /** The path of a volume of one of the hypervisor's storage pools. Throws `not-found`. */
  async volumePath(pool: string, volume: string): Promise<string> {
    return this.#virsh.run('vol-path', '--pool', pool, volume);
  }

  /** Of these seats, those that have a domain here; where it is not their `own` place, one that was made from their definition. */
  async known(seats: readonly Seat[], own: (seat: Seat) => boolean): Promise<readonly Seat[]> {
    const uuids = new Set((await this.#virsh.run('list', '--all', '--uuid')).split(/\s+/));
    const found: Seat[] = [];
    for (const seat of seats) {
      if (!uuids.has(seat.uuid)) continue;
      const mark = own(seat) ? undefined : await this.#markOf(seat);
      if (own(seat) || (mark !== undefined && mark !== 'foreign' && mark.from === seat.definition))
        found.push(seat);
    }
    return found;
  }

  async obstacles(seats: readonly Seat[]): Promise<readonly Problem[]> {
    const problems: Problem[] = [];
    for (const seat of seats) {
      const mark = await this.#markOf(seat);
      if (mark !== undefined && !(await this.#owners.isOurs(seat, mark)))
        problems.push(await this.#owners.problem(seat, mark, this.uri));
    }
    try {
      return [...problems, ...(await takenNames(this.#virsh, this.uri, seats))];
    } catch (error) {
      throw unreachable(this.uri, error);
    }
  }

  provedPools(): readonly string[] {
    return this.#owners.pools();
  }

  async pending(seats: readonly Seat[]): Promise<readonly Seat[]> {
    try {
      await this.#virsh.run('uri');
    } catch (error) {
      throw unreachable(this.uri, error);
    }
    const known = await Promise.all(
      seats.map(async (seat) => {
        const mark = await this.#markOf(seat);
        if (mark === undefined || mark === 'foreign' || mark.from !== seat.definition) return false;
        if (this.#autostart.isDue(seat)) return false;
        return mark.digest === definitionDigest(await this.#place.definition(seat));
      }),
    );
    return seats.filter((_, i) => !known[i]);
  }

  async otherDisk(seat: Seat): Promise<string | undefined> {
    let xml: string;
    try {
      xml = await this.#virsh.run('dumpxml', '--inactive', seat.uuid);
    } catch (error) {
      if (isDiskError(error, 'not-found') && error.field === 'virsh') return undefined;
      throw unreachable(this.uri, error);
    }
    const { from, disks } = domainDisks(xml);
    this.#disks.set(seat.uuid, from === seat.definition ? disks : []);
    // One of another pool's: its files are named elsewhere.
    if (from !== seat.definition || disks.length === 0) return undefined;
    return disks.some((one) => isSameFile(one, seat.disk.path)) ? undefined : disks[0];
  }

  async beside(seats: readonly Seat[]): Promise<readonly Beside[]> {
    const disks = async (seat: Seat) => {
      if (!this.#disks.has(seat.uuid)) await this.otherDisk(seat);
      return this.#disks.get(seat.uuid) ?? [];
    };
    const definition = async (seat: Seat) => await this.#place.definition(seat);
    try {
      return await besideSeats(this.#virsh, seats, { disks, definition });
    } catch (error) {
      throw unreachable(this.uri, error);
    }
  }

  async otherDomains(seats: readonly Seat[], lab?: readonly Seat[]): Promise<readonly OtherDomain[]> {
    try {
      const beside = await domainsBeside(this.#virsh, new Set(seats.map(({ uuid }) => uuid)), lab);
      return beside.map(({ name, files }) => ({ uri: this.uri, name, files }));
    } catch (error) {
      throw unreachable(this.uri, error);
    }
  }

  async define(seat: Seat): Promise<void> {
    const text = await this.#place.definition(seat);
    const mark = await this.#markOf(seat);
    if (mark !== undefined) await this.#assertOurs(seat, mark);
    if (mark !== undefined && mark !== 'foreign' && mark.from === seat.definition) {
      if (mark.digest === definitionDigest(text)) return await this.#autostart.restore(seat);
      const other = await this.otherDisk(seat);
      if (other !== undefined) throw otherDiskError(seat, other);
    }
    assertNamesDisk(seat, text);
    this.#folder ??= createPrivateFolder('define');
    const file = this.#folder.file(`${seat.uuid}.xml`);
    try {
      writeFileSync(file, markDefinition(text, seat.definition));
      await this.#tellDefinition(file);
    } catch (error) {
      throw await withNameFix(this.#virsh, this.uri, seat, failed(seat, 'be defined', error));
    } finally {
      rmSync(file, { force: true });
    }
    await this.#autostart.restore(seat);
  }

  /** The first is validated; none is told while that is not known to be well, and where it is not, each is validated by itself. */
  async #tellDefinition(file: string): Promise<void> {
    const first = this.#schemaLook;
    const validated = () => this.#virsh.run('define', '--validate', file);
    if (first === undefined) {
      this.#schemaLook = validated();
      await this.#schemaLook;
      return;
    }
    const well = await first.then(
      () => true,
      () => false,
    );
    await (well ? this.#virsh.run('define', file) : validated());
  }

  /** libvirt learns the passphrase of the seat's disks, before they are opened; again where it has been restarted since. */
  async #tellSecret(seat: Seat): Promise<void> {
    const encryption = disksOf(seat).find((disk) => disk.encryption)?.encryption;
    if (!encryption) return;
    this.#folder ??= createPrivateFolder('define');
    await tellSecret(this.#virsh, this.#folder, seat, encryption);
  }

  async undefine(seat: Seat, { ownOnly = false } = {}): Promise<void> {
    if (ownOnly) {
      const mark = await this.#markOf(seat);
      if (mark === undefined || mark === 'foreign' || mark.from !== seat.definition) return;
    }
    await this.#forget(seat);
    this.#autostart.forget(seat);
  }

  async #forget(seat: Seat): Promise<void> {
    const mark = await this.#markOf(seat);
    if (mark === undefined || !(await this.#owners.isOurs(seat, mark))) return;
    if (!isDown(await this.state(seat))) {
      throw new DiskError('in-use', `Seat '${seat.name}' is running: stop it first`, {
        path: seat.disk.path,
      });
    }
    const everything = [
      '--managed-save',
      '--snapshots-metadata',
      '--checkpoints-metadata',
      '--nvram',
      '--tpm',
    ];
    try {
      await this.#virsh.run('undefine', seat.uuid, ...everything);
    } catch (error) {
      if (isDiskError(error, 'not-found')) return;
      // Drivers without guests know none of these.
      if (!isDiskError(error, 'unsupported')) throw failed(seat, 'be undefined', error);
      await this.#virsh.run('undefine', seat.uuid);
    } finally {
      this.#saved.forget();
    }
    const encryption = disksOf(seat).find((disk) => disk.encryption)?.encryption;
    // Never started, it has none.
    if (encryption) await this.#virsh.run('secret-undefine', encryption.secret).catch(() => undefined);
  }

  async renew(seat: Seat): Promise<void> {
    const mark = await this.#markOf(seat);
    if (mark === undefined || !(await this.#owners.isOurs(seat, mark))) return;
    await this.#autostart.remember(seat);
    await this.#forget(seat);
    await this.define(seat);
  }

  async start(seat: Seat, options: StartOptions = {}): Promise<void> {
    if (options.signal?.aborted) throw new DiskError('aborted', `Seat '${seat.name}' was not started`);
    this.#brief.delete(seat.uuid);
    await this.define(seat);
    await this.#tellSecret(seat);
    this.#place.prepareLog(seat);
    const logBefore = await this.#place.logFacts(seat);
    try {
      await this.#virsh.run('start', seat.uuid);
    } catch (error) {
      if (isDiskError(error, 'in-use')) throw alreadyRunning(seat);
      if (!(await this.#hasRun(seat, error, logBefore))) throw failed(seat, 'start', error);
      this.#brief.add(seat.uuid);
    } finally {
      this.#active = undefined;
      this.#saved.forget();
    }
  }

  async assertOwn(seat: Seat): Promise<void> {
    const mark = await this.#markOf(seat);
    if (mark !== undefined) await this.#assertOurs(seat, mark);
  }

  async stop(seat: Seat, options: StopOptions = {}): Promise<void> {
    if (!(await this.#isUp(seat))) return;
    await this.assertOwn(seat);
    const gracefulMs = options.gracefulMs ?? 10_000;
    if (gracefulMs > 0 && (await this.#tell(seat, 'shutdown'))) {
      const off = await this.#waitGone(seat, gracefulMs, options.signal);
      if (!off && options.signal?.aborted) {
        throw new DiskError('aborted', `Stopped while seat '${seat.name}' was shutting down`, {
          path: seat.disk.path,
        });
      }
    }
    if (await this.#isUp(seat, 'now')) await this.#tell(seat, 'destroy');
    if (await this.#waitGone(seat, killLimitMs)) return;
    throw new DiskError('io', `Seat '${seat.name}' does not end, even when destroyed`, {
      path: seat.disk.path,
    });
  }

  async state(seat: Seat): Promise<SeatState> {
    try {
      const said = await this.#virsh.run('domstate', '--reason', seat.uuid);
      const state = seatState(said);
      if (!isOff(state)) return state;
      return (await this.#saved.has(seat.uuid, said)) ? 'saved' : state;
    } catch (error) {
      if (isDiskError(error, 'not-found') && error.field === 'virsh') return 'off';
      throw unreachable(this.uri, error);
    }
  }

  async saved(seats: readonly Seat[]): Promise<readonly Seat[]> {
    try {
      const uuids = await savedDomains(this.#virsh);
      return seats.filter(({ uuid }) => uuids.has(uuid));
    } catch (error) {
      throw unreachable(this.uri, error);
    }
  }

  async waitOff(seat: Seat, options: WaitOptions = {}): Promise<SeatEnd> {
    if (!(await this.#waitGone(seat, options.timeoutMs, options.signal))) {
      throw new DiskError(
        'aborted',
        options.signal?.aborted
          ? `Stopped while waiting for seat '${seat.name}'`
          : `Seat '${seat.name}' is still running after ${options.timeoutMs} ms`,
        { path: seat.disk.path, ...(options.signal?.aborted ? {} : { field: 'timeout' }) },
      );
    }
    if (this.#brief.has(seat.uuid)) return 'powered-off';
    try {
      const end = seatEnd(await this.#virsh.run('domstate', '--reason', seat.uuid));
      const told = end === 'powered-off' && (await this.#events.endedByHost(domainName(seat), toldLateMs));
      return told ? 'cut-off' : end;
    } catch (error) {
      // One that was undefined while it ran went with its run.
      if (isDiskError(error, 'not-found') && error.field === 'virsh') return 'cut-off';
      throw unreachable(this.uri, error);
    }
  }

  /** Until libvirt tells of a change, or a while. */
  async untilChange(signal: AbortSignal): Promise<void> {
    this.#events.listen();
    await this.#events.next(this.#events.trusted ? toldPollMs : untoldPollMs, signal);
  }

  /** What libvirt's log daemon has written; it begins a new file with every boot. */
  console(seat: Seat, options: ConsoleOptions = {}): AsyncIterable<Uint8Array> {
    const { follow, signal } = options;
    return this.#place.follow(seat, follow ? () => this.#isUpThrough(seat, signal) : undefined, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#events[Symbol.asyncDispose]();
    await this.#virsh[Symbol.asyncDispose]();
    this.#folder?.[Symbol.dispose]();
  }

  /** What the domain of the seat's UUID says of its origin; 'foreign': nothing. */
  async #markOf(seat: Seat): Promise<DefinitionMark | 'foreign' | undefined> {
    try {
      return markIn(await this.#virsh.run('metadata', seat.uuid, metadataNamespace)) ?? 'foreign';
    } catch (error) {
      if (!isDiskError(error)) throw error;
      if (/metadata/i.test(error.message)) return 'foreign';
      if (error.code === 'not-found') return undefined;
      throw unreachable(this.uri, error);
    }
  }

  /** Says something to a domain that may have ended meanwhile; answers whether it still heard it. */
  async #tell(seat: Seat, command: 'shutdown' | 'destroy'): Promise<boolean> {
    try {
      await this.#virsh.run(command, seat.uuid);
      return true;
    } catch (error) {
      if (!(await this.#isUp(seat, 'now'))) return false;
      if (command === 'shutdown') return false;
      throw failed(seat, 'be stopped', error);
    }
  }

  async #isUp(seat: Seat, when: 'soon' | 'now' = 'soon'): Promise<boolean> {
    const limit = this.#events.trusted ? toldPollMs : pollMs;
    if (!this.#active || when === 'now' || performance.now() - this.#active.at > limit) {
      const uuids = this.#virsh
        .run('list', '--uuid')
        .then((text) => new Set(text.split(/\s+/).filter((one) => one !== '')));
      this.#active = { at: performance.now(), uuids };
    }
    return (await this.#active.uuids).has(seat.uuid);
  }

  /** Waits until the domain is off; false when the time is over, or the signal came. */
  async #waitGone(seat: Seat, limitMs?: number, signal?: AbortSignal): Promise<boolean> {
    const until = performance.now() + (limitMs ?? Number.POSITIVE_INFINITY);
    for (;;) {
      this.#events.listen();
      if (!(await this.#isUpThrough(seat, signal))) return true;
      if (signal?.aborted || performance.now() > until) return false;
      const limit = this.#events.trusted ? toldPollMs : pollMs;
      await this.#events.next(Math.min(limit, Math.max(1, until - performance.now())), signal);
    }
  }

  /** `#isUp` for who can wait until libvirt is there again. */
  async #isUpThrough(seat: Seat, signal?: AbortSignal): Promise<boolean> {
    const until = performance.now() + outageMs;
    for (;;) {
      try {
        return await this.#isUp(seat);
      } catch (error) {
        if (signal?.aborted || performance.now() > until) throw unreachable(this.uri, error);
        await sleep(pollMs, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  /**
   * Whether a failed start was none: a guest that powers off at once has closed its monitor before libvirt could greet it.
   * Its serial port has spoken then.
   */
  async #hasRun(seat: Seat, error: unknown, before: string): Promise<boolean> {
    if (!isDiskError(error, 'io') || !/monitor/i.test(error.message)) return false;
    if (await this.#isUp(seat, 'now')) return false;
    const after = await this.#place.logFacts(seat);
    return after !== '' && after !== before;
  }

  async #assertOurs(seat: Seat, mark: DefinitionMark | 'foreign'): Promise<void> {
    if (await this.#owners.isOurs(seat, mark)) return;
    throw problemError([await this.#owners.problem(seat, mark, this.uri)]);
  }
}
