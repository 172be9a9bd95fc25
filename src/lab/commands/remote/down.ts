import { count, describeSeats } from '../../describe.ts';
import { names } from '../../remote/records.ts';
import { assertOff, assertOwnPlaces, takeDownRemote } from '../../remote/reset.ts';
import { assertNobodyStandsThere } from '../../remote/standing.ts';
import { type LabCommand, say, sayJson, wantsJson } from '../command.ts';
import { stopFirst } from '../stop-first.ts';
import { lockedRemote, lookAt, remoteLabFrom } from './lab.ts';

/** `cowherd down` for a lab whose hosts keep its seats. Exit code 1 where a host does not answer: it keeps what is on it. */
export const run: LabCommand = async (input, context) => {
  await using lab = remoteLabFrom(input, context).lab;
  const { name } = lab.spec;
  const dryRun = input.options.dryRun === true;
  const work = async () => {
    let view = await lookAt(lab, context);
    const seats = [...lab.seats(view, new Map()).values()].filter((seat) => view.found.has(seat.name));
    const check = async () => {
      await assertOwnPlaces(lab, seats);
      await assertNobodyStandsThere(lab, seats, 'release');
    };
    const stopped = await stopFirst(seats, { runner: lab.runner, gracefulMs: 0, check }, input, context);
    if (stopped.length > 0 && !dryRun) view = await lab.look({ signal: context.signal });
    const up = new Set(dryRun ? stopped : []);
    const off = seats.filter((seat) => !up.has(seat.name));
    assertOff(view, off, 'down');
    await check();
    const down = view.hosts.filter((one) => one.down !== undefined).map(({ host }) => host.name);
    const told = input.options.stop === true ? { stopped } : {};
    if (dryRun)
      return { seats: seats.map((seat) => seat.name), files: [] as readonly string[], ...told, down };
    const isPlacement = (file: string) => names.placementRevision(name, file) !== undefined;
    return { ...(await takeDownRemote(lab, view, isPlacement)), ...told, down };
  };
  const removed = dryRun ? await work() : await lockedRemote(lab, work);
  if (wantsJson(input)) sayJson(context, { lab: name, ...removed, dryRun });
  else {
    const verb = dryRun ? 'Would remove' : 'Removed';
    say(context, `${verb} ${count(removed.seats.length, 'seat')}: ${describeSeats(removed.seats)}`);
  }
  return removed.down.length > 0 ? 1 : 0;
};
