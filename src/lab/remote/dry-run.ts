import { domainName } from '../domain/domain-xml.ts';
import type { Seat } from '../seats/seat.ts';
import { copiesWithout } from './collect.ts';
import type { RemoteLab, RemoteView } from './lab.ts';
import { names } from './records.ts';
import { removeSeatFiles } from './seat-files.ts';
import type { HostPlan } from './up.ts';

/** What a command would make or take on one host: names of files in its folder, and of domains. */
export interface OnHost {
  readonly host: string;
  readonly files: readonly string[];
  readonly domains: readonly string[];
}

/** What `down` would remove, with the copies of masters that nobody needs then. */
export async function takenDown(
  lab: RemoteLab,
  view: RemoteView,
  seats: readonly Seat[],
  { keepRecord }: { readonly keepRecord: boolean },
): Promise<readonly OnHost[]> {
  const { name: labName } = lab.spec;
  const hosts = view.hosts.filter(({ down }) => down === undefined);
  return await Promise.all(
    hosts.map(async (one) => {
      const { host, files: there } = one;
      const remote = lab.hosts.get(host.name)!;
      const own = seats.filter((seat) => seat.host === host.name);
      const files: string[] = [];
      for (const seat of own) {
        const log = await remote.writesLog(seat);
        files.push(
          ...(await removeSeatFiles(remote, there, { lab: labName, seat: seat.name, log, dryRun: true })),
        );
      }
      const records = [...there].filter((file) => names.placementRevision(labName, file) !== undefined);
      if (!keepRecord) files.push(...records);
      const gone = new Set(own.map((seat) => seat.name));
      files.push(...(await copiesWithout(lab, one, { seats: gone, going: new Set(files) })));
      return {
        host: host.name,
        files,
        domains: own.map(domainName),
      };
    }),
  );
}

/** The disks that `reset` would throw away and make anew, and the domains of these seats, which are defined anew. */
export function thrownAway({ spec }: RemoteLab, view: RemoteView, seats: readonly Seat[]): readonly OnHost[] {
  return view.hosts.flatMap(({ host, files: there }) => {
    const own = seats.filter((seat) => seat.host === host.name);
    if (own.length === 0) return [];
    const disks = own.flatMap(({ name }) => [
      names.disk(name),
      ...spec.disks.map((disk) => names.extra(name, disk.name)),
    ]);
    return [
      { host: host.name, files: disks.filter((file) => there.has(file)), domains: own.map(domainName) },
    ];
  });
}

/** What `up` would make on a host. */
export function made(lab: RemoteLab, view: RemoteView, plan: HostPlan): OnHost {
  const { spec } = lab;
  const there = view.hosts.find(({ host }) => host.name === plan.host)?.files ?? new Set();
  const others = (seat: string) => [
    ...spec.disks.map((disk) => names.extra(seat, disk.name)),
    ...(spec.seed ? [names.seed(seat)] : []),
  ];
  const files = [
    ...(plan.copy && view.master ? [lab.copyName(view.master)] : []),
    ...plan.create.flatMap((seat) => [names.disk(seat), ...others(seat)]),
    ...plan.extras.flatMap(others),
  ].filter((file) => !there.has(file) || plan.create.some((seat) => file === names.disk(seat)));
  const domains = plan.define.map((name) => domainName({ lab: spec.name, name }));
  return { host: plan.host, files, domains };
}

/** A line for each host of which there is something to say. */
export function describeOnHosts(hosts: readonly OnHost[]): readonly string[] {
  return hosts.flatMap(({ host, files, domains }) => {
    const parts = [
      ...(files.length > 0 ? [`files ${files.join(', ')}`] : []),
      ...(domains.length > 0 ? [`domains ${domains.join(', ')}`] : []),
    ];
    return parts.length > 0 ? [`  ${host}: ${parts.join('; ')}`] : [];
  });
}
