import { humanSize } from '../../../cli/sizes.ts';
import { count, table } from '../../describe.ts';
import type { HostView } from '../../remote/host.ts';
import type { RemoteLab, RemoteView } from '../../remote/lab.ts';
import { diskPlace } from '../../remote/seat-files.ts';
import { hostsOf, type LocatedSeat, otherFolder } from '../../remote/whereabouts.ts';
import { colours, type LabCommand, say, wantsJson } from '../command.ts';
import { sayStatus } from '../status.ts';
import { watchSeats } from '../watch-seats.ts';
import { lookAt, remoteLabFrom } from './lab.ts';

interface SeatOnHost {
  readonly name: string;
  readonly uuid: string;
  readonly host?: string;
  /** 'unknown': on a host that does not answer, or that the lab file does not name. 'not made': nowhere. */
  readonly state: string;
  /** 'former': on a master that is not the lab's any more. */
  readonly disk: 'ok' | 'former' | 'missing' | 'damaged' | 'unknown';
  /** `contentDigest` of its master. */
  readonly content?: string;
  readonly apparent: number;
  readonly allocated: number;
  readonly listed: boolean;
  /** What is wrong with where it is, in words. */
  readonly wrong?: string;
}

/** `cowherd status` for a lab whose hosts keep its seats: all of it comes from the hosts. Exit code 1 where a copy of the master is not what it was. */
export const run: LabCommand = async (input, context) => {
  await using lab = remoteLabFrom(input, context, 0).lab;
  const view = await lookAt(lab, context);
  const named = [...new Set([...lab.spec.seats, ...view.found.keys()])];
  const seats = await Promise.all(
    named.flatMap((name) => [
      seatOn(lab, view, name, view.found.get(name)),
      ...view.twins.filter((one) => one.name === name).map((one) => seatOn(lab, view, name, one)),
    ]),
  );
  const verify = input.options.verify === true;
  const copies = (
    await Promise.all(
      view.hosts.map((host) => copiesOn(lab, host, view.master?.content, verify, context.signal)),
    )
  ).flat();
  const touched = new Set(
    [...view.found.values()].flatMap(({ host, content }) =>
      lab.copyOn(view, host, content ?? '') ? [] : [host],
    ),
  );
  const bad = touched.size > 0 || copies.some((copy) => copy.state === 'changed');
  if (wantsJson(input)) {
    const hosts = view.hosts.map(({ host, down }) => ({
      name: host.name,
      uri: host.uri,
      pool: host.pool,
      down,
    }));
    sayStatus(input, context, {
      lab: lab.spec.name,
      hosts,
      master: view.master ?? null,
      copies,
      touched: [...touched],
      seats,
    });
    await watch();
    return bad ? 1 : 0;
  }
  const c = colours(context);
  say(
    context,
    `${c.bold(lab.spec.name)}: ${count(lab.spec.seats.length, 'seat')} on ${count(view.hosts.length, 'host')}`,
  );
  for (const { host, file, state, current } of copies) {
    const verdict =
      state === 'changed'
        ? c.red('changed')
        : state === 'verified'
          ? 'as it was (read back and compared)'
          : 'there';
    say(context, `master on ${host}: ${file}: ${verdict}${current ? '' : ', a former one'}`);
  }
  for (const host of touched)
    say(
      context,
      `master on ${host}: ${c.red('touched')} since it was compared, or gone: 'cowherd up' makes the copy anew`,
    );
  if (input.options.brief !== true) {
    const rows = seats.map((one) => [
      one.name,
      one.state,
      one.apparent === 0 ? '-' : humanSize(one.apparent),
      one.apparent === 0 ? '-' : humanSize(one.allocated),
      [
        one.host && `on ${one.host}`,
        one.wrong,
        one.disk !== 'ok' && one.state !== 'not made' && `disk ${one.disk}`,
        !one.listed && 'not in the lab file any more',
      ]
        .filter(Boolean)
        .join('; '),
    ]);
    say(context, `\n${table([['SEAT', 'STATE', 'SIZE', 'ON DISK', ''], ...rows], [2, 3])}`);
  }
  await watch();
  return bad ? 1 : 0;

  async function watch(): Promise<void> {
    if (input.options.watch === true)
      await watchSeats(
        [...view.found.values()].map(({ name, host }) => lab.seatOn(view, name, host)),
        lab.runner,
        input,
        context,
      );
  }
};

/** A seat as it is where it was found; `found` is undefined where no host that answers has its domain. */
async function seatOn(
  lab: RemoteLab,
  view: RemoteView,
  name: string,
  found: LocatedSeat | undefined,
): Promise<SeatOnHost> {
  const listed = lab.spec.seats.includes(name);
  const before = found ? undefined : view.replaced.find(({ seats }) => seats.includes(name));
  const host = found?.host ?? before?.host ?? view.placement?.seats[name];
  const uuid = lab.seats(view, new Map(host ? [[name, host]] : [])).get(name)?.uuid ?? '';
  const there = view.hosts.find((one) => one.host.name === host);
  const isStray = host !== undefined && there === undefined;
  const down = there?.down !== undefined || isStray || before !== undefined;
  const none = { name, uuid, host, listed, apparent: 0, allocated: 0, wrong: whatIsWrong() };
  if (!found) return { ...none, state: down ? 'unknown' : 'not made', disk: down ? 'unknown' : 'missing' };
  if (otherFolder(lab, found) !== undefined)
    return { ...none, state: found.state, content: found.content, disk: 'unknown' };
  const place = await diskPlace(lab.hosts.get(found.host)!, lab.spec.name, name);
  const { state, content } = found;
  if (place === 'missing' || place === 'cut off') return { ...none, state, content, disk: 'missing' };
  const { apparent, allocated, damage, provenance } = place;
  const current = provenance?.master === view.master?.content;
  const disk = damage !== undefined || !provenance ? 'damaged' : current ? 'ok' : 'former';
  return { ...none, state, content, disk, apparent, allocated };

  function whatIsWrong(): string | undefined {
    if (before) return `as it was before ('${before.was.uri}'): 'cowherd plan' says what can be done`;
    if (isStray) return "which the lab file does not name: 'cowherd plan' says what can be done";
    if (found && hostsOf(view, name).length > 1)
      return "another host has it, too: 'cowherd plan' says what can be done";
    const folder = found && otherFolder(lab, found);
    return folder && `made in another folder: ${folder}`;
  }
}

async function copiesOn(
  lab: RemoteLab,
  { host, copies }: HostView,
  content: string | undefined,
  verify: boolean,
  signal: AbortSignal,
) {
  const { pool } = lab.hosts.get(host.name)!;
  const looked = copies.map(async (copy) => {
    const state = !verify
      ? 'there'
      : (await pool.digest(copy.file, signal)) === copy.sha256
        ? 'verified'
        : 'changed';
    return {
      host: host.name,
      file: copy.file,
      content: copy.content,
      sha256: copy.sha256,
      bytes: copy.bytes,
      state,
      current: copy.content === content,
    };
  });
  return await Promise.all(looked);
}
