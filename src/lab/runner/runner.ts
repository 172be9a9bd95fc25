import { DiskError } from '../../errors.ts';
import { type DomainType, domainName } from '../domain/domain-xml.ts';
import type { Problem } from '../plan.ts';
import type { Seat } from '../seats/seat.ts';

/**
 * What a seat's guest is doing.
 *
 * - `off`: not running; it was shut down, or never started.
 * - `saved`: not running; its memory was saved, and it goes on from there at its next start.
 * - `starting`: its hypervisor is up, the guest not yet.
 * - `crashed`: its hypervisor ended without cleaning up (killed, out of memory), or reports an internal error.
 * - `unknown`: something answers for it that cannot be asked now.
 */
export type SeatState = 'off' | 'saved' | 'starting' | 'running' | 'paused' | 'crashed' | 'unknown';

/** Whether nothing but its disk is left of a guest. */
export function isOff(state: SeatState): boolean {
  return state === 'off' || state === 'crashed';
}

/** Whether no hypervisor runs it: a memory of it may have been saved. */
export function isDown(state: SeatState): boolean {
  return isOff(state) || state === 'saved';
}

/**
 * How a guest's run ended.
 *
 * - `powered-off`: the guest switched itself off, as far as anybody knows.
 * - `cut-off`: somebody else ended it: its power was turned off, its memory saved, its hypervisor told to end.
 * - `crashed`: as of `SeatState`.
 */
export type SeatEnd = 'powered-off' | 'cut-off' | 'crashed';

export interface StartOptions {
  readonly signal?: AbortSignal;
}

export interface StopOptions {
  /**
   * Milliseconds that the guest has for its own shutdown after the power button was pressed; 0 does not ask it.
   * After that the power goes off. Default 10,000.
   */
  readonly gracefulMs?: number;
  /** Aborted while the guest shuts down: throws `aborted`, and its power stays on. */
  readonly signal?: AbortSignal;
}

export interface ConsoleOptions {
  /** Goes on with what the guest prints, until it is off. Default false: what is there now. */
  readonly follow?: boolean;
  readonly signal?: AbortSignal;
}

export interface WaitOptions {
  /** Throws `aborted` (field `timeout`) when the guest is still up then. Default: no limit. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** A domain of the hypervisor that is none of the seats in question: another seat, or somebody's own. */
export interface OtherDomain {
  /** libvirt's connection URI. */
  readonly uri: string;
  readonly name: string;
  /** Absolute paths of all that it uses, as its hypervisor sees them. */
  readonly files: readonly string[];
}

/** What somebody added to a seat by means of its hypervisor. */
export interface Beside {
  readonly seat: string;
  /** Files and devices that its domain has as disks besides its own. */
  readonly disks: readonly string[];
  /** Names of snapshots that the hypervisor keeps a record of. */
  readonly snapshots: readonly string[];
}

/**
 * Boots seats. One instance serves any number of seats at once; every call may run concurrently with calls for
 * other seats. Disposing gives back the runner's own connections, never the guests: they outlive the tool.
 */
export interface Runner extends AsyncDisposable {
  /** As the lab file's `runner:` names it. */
  readonly name: string;
  /** False for a runner that boots nothing: `start` throws, every state is `off`. */
  readonly boots: boolean;
  /**
   * Says in one sentence why this runner cannot boot here and how to change that; undefined when it can.
   * Cheap enough to call before any work.
   */
  unavailable(): Promise<string | undefined>;
  /** What was left out because something did not answer, in words. */
  warnings?(): readonly string[];
  /** The domain type that this runner's definitions need; undefined where it reads none, and any will do. */
  domainType(): Promise<DomainType | undefined>;
  /** The XML of the hypervisor's own domain `name`, for a template. Throws `not-found`, `unsupported`. */
  domainXml(name: string): Promise<string>;
  /** libvirt's connection, where it is one. */
  readonly uri?: string;
  /** The hosts that it knows, by name. Absent: all seats are in one place. */
  readonly hosts?: ReadonlySet<string>;
  /**
   * Which hosts have the seats' domains, by the seats' names; and the hosts that have `answered`. On its own host a seat is known by its UUID alone.
   * Absent: as `hosts`.
   */
  whereabouts?(seats: readonly Seat[]): Promise<{
    readonly answered: ReadonlySet<string>;
    readonly has: ReadonlyMap<string, readonly string[]>;
  }>;
  /** What keeps seats from being defined, as somebody else's domain of that name does. Absent: nothing does. */
  obstacles?(seats: readonly Seat[]): Promise<readonly Problem[]>;
  /**
   * Folders (real paths) in which the lab's pool lay, as `obstacles` has found by the seats' definitions, or since what it was copied from is
   * gone. Nothing else proves it to the next command. Absent: none.
   */
  provedPools?(): readonly string[];
  /** Of these seats, those that it does not know, or knows by an older definition: `define` is called for them. */
  pending(seats: readonly Seat[]): Promise<readonly Seat[]>;
  /**
   * The file that the hypervisor has in the place of the seat's disk, where that is another: a snapshot that somebody took, and that the
   * guest writes to. Absent: it has none but those of the seat.
   */
  otherDisk?(seat: Seat): Promise<string | undefined>;
  /**
   * The hypervisor's domains that are none of these seats, with what they use. Absent: it has none. `lab`: all seats of their lab, of which
   * those that are off may be asked about together, by what libvirt knows of their disks.
   */
  otherDomains?(seats: readonly Seat[], lab?: readonly Seat[]): Promise<readonly OtherDomain[]>;
  /** Makes the seat known (a domain, a runtime directory). Doing it again changes nothing. Throws `in-use` where `otherDisk` is one. */
  define(seat: Seat): Promise<void>;
  /**
   * Forgets the seat. Throws `in-use` while it is up. Unknown seats are no error. `ownOnly`: nothing of the seat is there, so what was made from
   * another definition, though that is not there either, may be another lab's of the same name, whose pool is away too: it stays.
   */
  undefine(seat: Seat, options?: { readonly ownOnly?: boolean }): Promise<void>;
  /** What `renew` would take from the seats that is none of theirs by their definitions; those with nothing are left out. Absent: nothing. */
  beside?(seats: readonly Seat[]): Promise<readonly Beside[]>;
  /**
   * Forgets what it keeps of the seat's earlier runs besides its disk: a saved memory, firmware variables, a TPM. Called
   * before the disk is made new. Whether it starts with its host stays as it is. Throws `in-use` while it is up.
   */
  renew(seat: Seat): Promise<void>;
  /** Boots it; returns when its virtual machine runs. Throws `in-use` when it is up already. */
  start(seat: Seat, options?: StartOptions): Promise<void>;
  /** Throws `exists` where what runs in the seat's place is somebody else's, which `stop` would not touch. Absent: nothing is. */
  assertOwn?(seat: Seat): Promise<void>;
  /** Stops it: by request first, then hard. Returns when it is off; no error when it was. */
  stop(seat: Seat, options?: StopOptions): Promise<void>;
  state(seat: Seat): Promise<SeatState>;
  /** Of these seats, those whose memory was saved; of all with one question. Absent: it saves none. */
  saved?(seats: readonly Seat[]): Promise<readonly Seat[]>;
  /** Waits until the seat is off and says how that came. */
  waitOff(seat: Seat, options?: WaitOptions): Promise<SeatEnd>;
  /** Waits until a seat's state may have changed, for who watches them. Absent: nobody tells. */
  untilChange?(signal: AbortSignal): Promise<void>;
  /** The serial port's output since the last boot began, in pieces as they come. */
  console(seat: Seat, options?: ConsoleOptions): AsyncIterable<Uint8Array>;
}

/** The refusal to do anything with a seat's disk while its guest's work is in another file. */
export function otherDiskError(seat: Seat, other: string): DiskError {
  const domain = domainName(seat);
  return new DiskError(
    'in-use',
    `The disk of seat '${seat.name}' is another file now, by its domain: '${other}'`,
    {
      path: seat.disk.path,
      detail: {
        other,
        fix: [
          `If it is a snapshot: 'virsh start ${domain}', then 'virsh blockcommit ${domain} DISK --active --pivot' ('virsh domblklist ${domain}'`,
          `names DISK) brings what it holds into the seat's disk. If that can go: 'virsh undefine ${domain} --snapshots-metadata', and remove it`,
        ].join(' '),
      },
    },
  );
}

/** What a runner without domains of its own says to `domainXml`. */
export function noDomains(name: string): DiskError {
  return new DiskError('unsupported', `There is no domain '${name}' without libvirt`, {
    field: 'template',
    detail: { fix: "write 'runner: libvirt', or name an XML file" },
  });
}
