import { assertCopies, assertDisks, seatsFound } from '../../remote/reset.ts';
import { assertNobodyStandsThere } from '../../remote/standing.ts';
import type { Seat } from '../../seats/seat.ts';
import { assertMakeable } from '../../spec/load.ts';
import type { LabCommand } from '../command.ts';
import { startSeats } from '../start.ts';
import { answering, lookAt, remoteLabFrom, selected } from './lab.ts';

/** `cowherd start` for a lab whose hosts keep its seats. Exit code 1 where some are left alone. */
export const run: LabCommand = async (input, context) => {
  const { lab: remote, rest } = remoteLabFrom(input, context);
  assertMakeable(remote.spec);
  await using lab = remote;
  const view = await lookAt(lab, context);
  const names = selected(lab, rest);
  const there = answering(view, names, context);
  const seats = seatsFound(lab, view, there);
  assertCopies(lab, view, seats);
  await assertDisks(lab, seats);
  await lab.prepareDefinitions(seats, view);
  const { runner, spec } = lab;
  const check = (off: readonly Seat[]) => assertNobodyStandsThere(lab, off, 'use');
  const code = await startSeats(seats, { runner, spec, check }, input, context);
  return there.length < names.length ? 1 : code;
};
