import { DiskError } from '../../../errors.ts';
import { count, describeSeats, milliseconds } from '../../describe.ts';
import { assertOff, resetRemote, savedIn, seatsFound } from '../../remote/reset.ts';
import { assertNobodyStandsThere } from '../../remote/standing.ts';
import { savedGoes } from '../../saved-memory.ts';
import { type LabCommand, lazyProgress, say, sayJson, startToo, wantsJson } from '../command.ts';
import { stopSeats } from '../stop.ts';
import { lockedRemote, lookAt, remoteLabFrom, selected } from './lab.ts';

/** `cowherd reset` for a lab whose hosts keep its seats. */
export const run: LabCommand = async (input, context) => {
  const { lab: remote, file, rest } = remoteLabFrom(input, context);
  await using lab = remote;
  if (rest.length === 0) {
    throw new DiskError('bad-argument', 'Which seats? Reset throws their disks away', {
      detail: { fix: `write for example: ${context.program} reset ${file} student-03; or "all"` },
    });
  }
  const names = selected(lab, rest);
  const dryRun = input.options.dryRun === true;
  const began = performance.now();
  let saved: readonly string[] = [];
  const work = async () => {
    let view = await lookAt(lab, context);
    const seats = seatsFound(lab, view, names);
    if (input.options.stop === true && !dryRun) {
      await stopSeats(seats, lab.runner, { gracefulMs: 0, signal: context.signal });
      view = await lab.look({ signal: context.signal });
    }
    assertOff(view, seats, 'reset');
    saved = savedIn(view, seats);
    await assertNobodyStandsThere(lab, seats, 'release');
    if (dryRun) return;
    const bar = lazyProgress(context, 'making disks', 'disks');
    try {
      await resetRemote(lab, view, seats, { onProgress: bar.update });
    } finally {
      bar.end();
    }
  };
  if (dryRun) await work();
  else await lockedRemote(lab, work);
  const ms = performance.now() - began;
  const answer = { lab: lab.spec.name, seats: names, saved, dryRun, milliseconds: Number(ms.toFixed(1)) };
  const json = wantsJson(input);
  if (!json) {
    const which = `${count(names.length, dryRun ? 'disk' : 'seat')}`;
    say(
      context,
      dryRun
        ? `Would throw away ${which}: ${describeSeats(names)}`
        : `${which} reset in ${milliseconds(ms)}: ${describeSeats(names)}`,
    );
    if (saved.length > 0) say(context, savedGoes(saved, dryRun));
  }
  if (input.options.start === true && !dryRun) return startToo(input, context, [file, ...rest], answer);
  if (json) sayJson(context, answer);
  return 0;
};
