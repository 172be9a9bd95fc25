import { count, describeSeats } from '../../describe.ts';
import { names } from '../../remote/records.ts';
import { assertOff, savedIn, takeDownRemote } from '../../remote/reset.ts';
import { assertNobodyStandsThere } from '../../remote/standing.ts';
import { savedGoes } from '../../saved-memory.ts';
import { type LabCommand, say, sayJson, wantsJson } from '../command.ts';
import { stopSeats } from '../stop.ts';
import { lockedRemote, lookAt, remoteLabFrom } from './lab.ts';

/** `cowherd down` for a lab whose hosts keep its seats. Exit code 1 where a host does not answer: it keeps what is on it. */
export const run: LabCommand = async (input, context) => {
  await using lab = remoteLabFrom(input, context).lab;
  const { name } = lab.spec;
  const dryRun = input.options.dryRun === true;
  const work = async () => {
    let view = await lookAt(lab, context);
    const seats = [...lab.seats(view, new Map()).values()].filter((seat) => view.found.has(seat.name));
    if (input.options.stop === true && !dryRun) {
      await stopSeats(seats, lab.runner, { gracefulMs: 0, signal: context.signal });
      view = await lab.look({ signal: context.signal });
    }
    assertOff(view, seats, 'down');
    const saved = savedIn(view, seats);
    await assertNobodyStandsThere(lab, seats, 'release');
    const down = view.hosts.filter((one) => one.down !== undefined).map(({ host }) => host.name);
    if (dryRun) return { seats: seats.map((seat) => seat.name), files: [] as readonly string[], saved, down };
    const isPlacement = (file: string) => names.placementRevision(name, file) !== undefined;
    return { ...(await takeDownRemote(lab, view, isPlacement)), saved, down };
  };
  const removed = dryRun ? await work() : await lockedRemote(lab, work);
  if (wantsJson(input)) sayJson(context, { lab: name, ...removed, dryRun });
  else {
    const verb = dryRun ? 'Would remove' : 'Removed';
    say(context, `${verb} ${count(removed.seats.length, 'seat')}: ${describeSeats(removed.seats)}`);
    if (removed.saved.length > 0) say(context, savedGoes(removed.saved, dryRun));
  }
  return removed.down.length > 0 ? 1 : 0;
};
