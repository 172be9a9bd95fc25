import { seatsFound } from '../../remote/reset.ts';
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
  await stopAndSay(seatsFound(lab, view, there), lab.runner, input, context);
  return there.length < names.length ? 1 : 0;
};
