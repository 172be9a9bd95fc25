import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError } from '../../errors.ts';
import type { DomainType } from '../domain/domain-xml.ts';
import type { Problem } from '../plan.ts';
import type { Seat } from '../seats/seat.ts';
import type { LabHost } from '../spec/hosts.ts';
import { LibvirtRunner } from './libvirt/libvirt-runner.ts';
import type { SeatPlace } from './libvirt/seat-place.ts';
import type {
  Beside,
  ConsoleOptions,
  OtherDomain,
  Runner,
  SeatEnd,
  SeatState,
  StartOptions,
  StopOptions,
  WaitOptions,
} from './runner.ts';

/** How often who watches asks hosts that have not answered. */
const askAgainMs = 30_000;

/**
 * Guests as libvirt domains on several hosts. Each seat says which is its own. A host that does not answer delays its own seats
 * alone: they are told of later, and their state is not known meanwhile.
 */
export class HostsRunner implements Runner {
  readonly name = 'libvirt';
  readonly boots = true;
  readonly hosts: ReadonlySet<string>;
  readonly #hosts: ReadonlyMap<string, LibvirtRunner>;
  readonly #down = new Map<string, string>();
  #askAgainAt = performance.now() + askAgainMs;

  /** `place`: where a host's seats have their files; default: on this machine too. */
  constructor(hosts: readonly LabHost[], place?: (host: LabHost) => SeatPlace) {
    this.#hosts = new Map(
      hosts.map((host) => [host.name, new LibvirtRunner({ uri: host.uri, place: place?.(host) })]),
    );
    this.hosts = new Set(this.#hosts.keys());
  }

  /** `domainType` of one host. */
  domainTypeOf(host: string): Promise<DomainType> {
    return this.#hosts.get(host)!.domainType();
  }

  /** `domainXml` of one host. */
  domainXmlOn(host: string, name: string): Promise<string> {
    return this.#hosts.get(host)!.domainXml(name);
  }

  /** Hosts that have not answered, in words. */
  warnings(): readonly string[] {
    return [...this.#down].map(([host, why]) => `the host ${host} is not there: ${why}`);
  }

  async unavailable(): Promise<string | undefined> {
    const said = await this.#ask((runner) => runner.unavailable());
    const reachable = [...said.values()].some((one) => one === undefined);
    return reachable ? undefined : [...said.values()][0];
  }

  /** One that all hosts can run. */
  async domainType(): Promise<DomainType | undefined> {
    const types = new Set((await this.#ask((runner) => runner.domainType())).values());
    return types.size <= 1 ? [...types][0] : 'qemu';
  }

  async domainXml(name: string): Promise<string> {
    let first: unknown;
    for (const runner of this.#hosts.values()) {
      try {
        return await runner.domainXml(name);
      } catch (error) {
        first ??= error;
      }
    }
    throw first;
  }

  async whereabouts(seats: readonly Seat[]) {
    const found = await this.#ask((runner, host) => runner.known(seats, (seat) => seat.host === host));
    const has = new Map<string, string[]>();
    for (const host of this.hosts)
      for (const seat of found.get(host) ?? []) {
        // Two names of one libvirt are no two places.
        const own = this.#hosts.get(seat.host ?? '')?.uri;
        if (host === seat.host || this.#hosts.get(host)!.uri !== own)
          has.set(seat.name, [...(has.get(seat.name) ?? []), host]);
      }
    return { answered: new Set(found.keys()), has };
  }

  async obstacles(seats: readonly Seat[]): Promise<readonly Problem[]> {
    const found = await this.#ask((runner, host) =>
      runner.obstacles(seats.filter((seat) => seat.host === host)),
    );
    return [...found.values()].flat();
  }

  provedPools(): readonly string[] {
    return [...new Set([...this.#hosts.values()].flatMap((runner) => runner.provedPools()))];
  }

  async pending(seats: readonly Seat[]): Promise<readonly Seat[]> {
    const found = await this.#ask((runner, host) =>
      runner.pending(seats.filter((seat) => seat.host === host)),
    );
    const pending = new Set([...found.values()].flat());
    return seats.filter((seat) => pending.has(seat));
  }

  async otherDisk(seat: Seat): Promise<string | undefined> {
    return (await this.#ask((runner) => runner.otherDisk(seat), seat.host)).get(seat.host ?? '');
  }

  async beside(seats: readonly Seat[]): Promise<readonly Beside[]> {
    const said = await this.#ask((runner, host) => runner.beside(seats.filter((seat) => seat.host === host)));
    return [...said.values()].flat();
  }

  /** A domain on another host than the seat's is none of it, whatever it is called. */
  async otherDomains(seats: readonly Seat[], lab: readonly Seat[] = []): Promise<readonly OtherDomain[]> {
    const said = await this.#ask((runner, host) => {
      const [of, all] = [seats, lab].map((some) => some.filter((seat) => seat.host === host));
      return runner.otherDomains(of, all);
    });
    return [...said.values()].flat();
  }

  async define(seat: Seat): Promise<void> {
    await this.#ask((runner) => runner.define(seat), seat.host);
  }

  undefine(seat: Seat, options?: { readonly ownOnly?: boolean }): Promise<void> {
    return this.#of(seat).undefine(seat, options);
  }

  renew(seat: Seat): Promise<void> {
    return this.#of(seat).renew(seat);
  }

  start(seat: Seat, options?: StartOptions): Promise<void> {
    return this.#of(seat).start(seat, options);
  }

  assertOwn(seat: Seat): Promise<void> {
    return this.#of(seat).assertOwn(seat);
  }

  stop(seat: Seat, options?: StopOptions): Promise<void> {
    return this.#of(seat).stop(seat, options);
  }

  async state(seat: Seat): Promise<SeatState> {
    const said = await this.#ask((runner) => runner.state(seat), seat.host);
    return said.get(seat.host ?? '') ?? 'unknown';
  }

  async saved(seats: readonly Seat[]): Promise<readonly Seat[]> {
    const hosts = [...new Set(seats.map(({ host }) => host ?? ''))];
    const found = await Promise.all(
      hosts.map((host) =>
        this.#ask((runner) => runner.saved(seats.filter((seat) => seat.host === host)), host),
      ),
    );
    return found.flatMap((answers) => [...answers.values()].flat());
  }

  waitOff(seat: Seat, options?: WaitOptions): Promise<SeatEnd> {
    return this.#of(seat).waitOff(seat, options);
  }

  async untilChange(signal: AbortSignal): Promise<void> {
    const first = new AbortController();
    const either = AbortSignal.any([signal, first.signal]);
    const there = [...this.#hosts].filter(([host]) => !this.#down.has(host));
    const anyhow = sleep(askAgainMs, undefined, { signal: either }).catch(() => undefined);
    await Promise.race([anyhow, ...there.map(([, runner]) => runner.untilChange(either))]);
    first.abort();
    if (performance.now() < this.#askAgainAt) return;
    // Who watches for long sees hosts come back.
    this.#down.clear();
    this.#askAgainAt = performance.now() + askAgainMs;
  }

  console(seat: Seat, options?: ConsoleOptions): AsyncIterable<Uint8Array> {
    return this.#of(seat).console(seat, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const runner of this.#hosts.values()) await runner[Symbol.asyncDispose]();
  }

  #of(seat: Seat): LibvirtRunner {
    const runner = this.#hosts.get(seat.host ?? '');
    if (runner) return runner;
    throw new DiskError('not-found', `Seat '${seat.name}' is on no host of the lab file`, {
      field: 'hosts',
      detail: { fix: "'cowherd plan' says what can be done" },
    });
  }

  /** Asks all hosts at once, or one; those that do not answer are remembered, and not asked again. */
  async #ask<T>(
    question: (runner: LibvirtRunner, host: string) => Promise<T>,
    only?: string,
  ): Promise<ReadonlyMap<string, T>> {
    const answers = new Map<string, T>();
    const asked = [...this.#hosts].filter(
      ([host]) => (only === undefined || host === only) && !this.#down.has(host),
    );
    await Promise.all(
      asked.map(async ([host, runner]) => {
        const why = await runner.unavailable();
        if (why !== undefined) this.#down.set(host, why);
        else answers.set(host, await question(runner, host));
      }),
    );
    return answers;
  }
}
