import { count, describeSeats } from '../../describe.ts';
import { assertGone, givenUp, strayProblem } from '../../pool/give-up.ts';
import { describeOnHosts, type OnHost, takenDown } from '../../remote/dry-run.ts';
import { assertOff, assertOwnPlaces, savedIn, takeDownRemote } from '../../remote/reset.ts';
import { assertNobodyStandsThere } from '../../remote/standing.ts';
import {
  assertNoTwins,
  assertOwnFolder,
  hiddenSeats,
  localSeats,
  otherFolder,
  straysOf,
} from '../../remote/whereabouts.ts';
import { savedGoes } from '../../seats/saved-memory.ts';
import { type LabCommand, say, sayJson, wantsJson, warn } from '../command.ts';
import { stopFirst } from '../stop-first.ts';
import { lockedRemote, lookAt, remoteLabFrom } from './lab.ts';

/**
 * `cowherd down` for a lab whose hosts keep its seats. Exit code 1 where a host does not answer, or is not in the lab file any more: it keeps
 * what is on it, and the others the record of that.
 */
export const run: LabCommand = async (input, context) => {
  await using lab = remoteLabFrom(input, context, 0).lab;
  const { name } = lab.spec;
  const dryRun = input.options.dryRun === true;
  const giveUp = givenUp(input.options.giveUp, lab.spec.hosts, 'hosts');
  const work = async () => {
    let view = await lookAt(lab, context);
    assertGone(giveUp, lab.spec.hosts!, new Set(view.replaced.map(({ host }) => host)));
    assertNoTwins(lab, view, [...view.found.keys()]);
    assertOwnFolder(lab, view, lab.spec.seats);
    // Of one that is not listed, and of another folder, another lab of that name may be the owner.
    const seats = [...lab.seats(view, new Map()).values()].filter((seat) => {
      const found = view.found.get(seat.name);
      return found !== undefined && otherFolder(lab, found) === undefined;
    });
    const check = async () => {
      await assertOwnPlaces(lab, seats);
      await assertNobodyStandsThere(lab, seats, 'release');
    };
    const stopped = await stopFirst(
      seats,
      { runner: lab.runner, gracefulMs: 0, verb: 'down', check },
      input,
      context,
    );
    if (stopped.length > 0 && !dryRun) view = await lab.look({ signal: context.signal });
    const up = new Set(dryRun ? stopped : []);
    const off = seats.filter((seat) => !up.has(seat.name));
    assertOff(view, off, 'down');
    const saved = savedIn(view, off);
    await check();
    const down = view.hosts.filter((one) => one.down !== undefined).map(({ host }) => host.name);
    const left = hiddenSeats(view, giveUp);
    for (const stray of straysOf(lab, view)) {
      if (giveUp.hosts.has(stray.host)) continue;
      const { what, fix } = strayProblem(stray, lab.spec.file, { disks: 'there', verb: 'down' });
      warn(context, `${what}: left alone (${fix})`);
    }
    const told = input.options.stop === true ? { stopped } : {};
    const local = localSeats(lab);
    if (local.seats.length > 0)
      warn(
        context,
        `in '${local.pool}', from when no host had a pool of its own: left alone: ${describeSeats(local.seats)}`,
      );
    const answer = { saved, ...told, down, left: [...left.keys()] };
    if (dryRun) {
      const hosts = await takenDown(lab, view, seats, { keepRecord: left.size > 0 });
      const files = hosts.flatMap((one) => one.files);
      return { seats: seats.map((seat) => seat.name), files, hosts, ...answer };
    }
    const gone = await takeDownRemote(lab, view, seats, { keepRecord: left.size > 0 });
    return { ...gone, hosts: [] as readonly OnHost[], ...answer };
  };
  const removed = dryRun ? await work() : await lockedRemote(lab, work);
  const { hosts, ...rest } = removed;
  if (wantsJson(input)) sayJson(context, { lab: name, ...rest, ...(dryRun ? { hosts } : {}), dryRun });
  else {
    const verb = dryRun ? 'Would remove' : 'Removed';
    say(context, `${verb} ${count(removed.seats.length, 'seat')}: ${describeSeats(removed.seats)}`);
    for (const line of describeOnHosts(hosts)) say(context, line);
    if (removed.saved.length > 0) say(context, savedGoes(removed.saved, dryRun));
  }
  return removed.down.length + removed.left.length > 0 ? 1 : 0;
};
