import { seatsFound } from '../../remote/reset.ts';
import { hostsOf } from '../../remote/whereabouts.ts';
import type { LabCommand } from '../command.ts';
import { stopAndSay } from '../stop.ts';
import { answering, lookAt, remoteLabFrom, selected } from './lab.ts';

/** `cowherd stop` for a lab whose hosts keep its seats. Exit code 1 where some are left alone. */
export const run: LabCommand = async (input, context) => {
  const { lab: remote, rest } = remoteLabFrom(input, context);
  await using lab = remote;
  const view = await lookAt(lab, context);
  const names = selected(lab, rest);
  const there = answering(view, names, context);
  // Of a seat that two hosts have, the guests of both: nothing is lost by that, and one of them can be removed then.
  const twins = view.twins.filter(({ name }) => there.includes(name));
  const twice = new Set(twins.map(({ name }) => name));
  const seats = seatsFound(
    lab,
    view,
    there.filter((name) => !twice.has(name)),
  );
  const both = [...twice].flatMap((name) => hostsOf(view, name).map((host) => lab.seatOn(view, name, host)));
  await stopAndSay([...seats, ...both], lab.runner, input, context);
  return there.length < names.length ? 1 : 0;
};
