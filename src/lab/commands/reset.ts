import { humanSize } from '../../cli/sizes.ts';
import { DiskError } from '../../errors.ts';
import { count, describeSeats, milliseconds } from '../describe.ts';
import { openLab } from '../lab.ts';
import { assertOneHost } from '../pool/whereabouts.ts';
import { type ResetResult, resetSeats } from '../reset.ts';
import { savedAmong, savedGoes } from '../seats/saved-memory.ts';
import type { Seat } from '../seats/seat.ts';
import { assertPassphrase } from '../seats/seat-image.ts';
import { assertNotRunning, assertOwnDisks } from '../standing/release.ts';
import { warnOfBeside } from './beside.ts';
import {
  type LabCommand,
  labFrom,
  lazyProgress,
  locked,
  orRemote,
  runnerOf,
  say,
  sayJson,
  seatsFrom,
  startToo,
  wantsJson,
  warn,
} from './command.ts';
import { stopFirst } from './stop-first.ts';

/** `cowherd reset`: throws seats' disks away and makes them as fresh as the master. */
const onThisMachine: LabCommand = async (input, context) => {
  const { lab, file, rest } = labFrom(input, context);
  if (rest.length === 0) {
    throw new DiskError('bad-argument', 'Which seats? Reset throws their disks away', {
      detail: {
        fix: `write for example: ${context.program} reset ${file} student-03,student-10..17; or "all"`,
      },
    });
  }
  const names = seatsFrom(lab, rest);
  const seats = names.map((name) => lab.seats.get(name)!);
  await using runner = await runnerOf(lab);
  const dryRun = input.options.dryRun === true;
  const bar = lazyProgress(context, 'making disks', 'disks');
  const reading = lazyProgress(context, 'reading the master', 'bytes');
  let ms = 0;
  let saved: readonly string[] = [];
  const options = {
    acceptMaster: input.options.acceptMaster === true,
    runner,
    digest: { signal: context.signal, onProgress: reading.update },
    onProgress: bar.update,
    signal: context.signal,
  };
  const work = async () => {
    const check = async (off: readonly Seat[]) => {
      await assertNotRunning(off, runner, 'reset', { throwsAway: true });
      await assertOneHost(seats, runner);
      await assertOwnDisks(seats, runner);
      const now = openLab(lab.spec.file, context.cwd);
      await resetSeats(now, names, { ...options, dryRun: true });
      await assertPassphrase(now);
    };
    const stopped = await stopFirst(seats, { runner, gracefulMs: 0, check }, input, context);
    const began = performance.now();
    const up = new Set(dryRun ? stopped : []);
    const down = seats.filter(({ name }) => !up.has(name));
    await assertNotRunning(down, runner, 'reset', { throwsAway: true });
    saved = await savedAmong(down, runner);
    const beside = await warnOfBeside(seats, runner, { dryRun }, context);
    const done = await resetSeats(openLab(lab.spec.file, context.cwd), names, { ...options, dryRun });
    ms = performance.now() - began;
    return {
      ...done,
      ...(beside.length > 0 ? { beside } : {}),
      ...(input.options.stop === true ? { stopped } : {}),
    };
  };
  let result: ResetResult;
  try {
    result = dryRun ? await work() : await locked(lab, work);
  } finally {
    bar.end();
    reading.end();
  }
  const answer = { lab: lab.name, ...result, saved, dryRun, milliseconds: Number(ms.toFixed(1)) };
  const json = wantsJson(input);
  const which = describeSeats(names);
  if (dryRun && !json) {
    const { disks, freed } = result;
    const own = new Set(seats.map((seat) => seat.disk.path));
    const extras = disks.filter((path) => !own.has(path)).length;
    const what =
      count(disks.length - extras, 'disk') + (extras > 0 ? ` and ${count(extras, 'extra disk')}` : '');
    say(context, `Would throw away ${what} (${humanSize(freed)}): ${which}`);
  } else if (!json) {
    say(context, `${count(names.length, 'seat')} reset in ${milliseconds(ms)}: ${which}`);
  }
  if (result.stranded.length > 0) {
    const { stranded } = result;
    const stay = `${dryRun ? 'would stay' : stranded.length === 1 ? 'stays' : 'stay'} on what the master held before`;
    warn(
      context,
      `${count(stranded.length, 'seat')} ${stay}, to be reset before ${stranded.length === 1 ? 'it starts' : 'they start'}: ${describeSeats(stranded)}`,
    );
  }
  if (saved.length > 0 && !json) say(context, savedGoes(saved, dryRun));
  if (input.options.start === true && !dryRun) return startToo(input, context, [file, ...rest], answer);
  if (json) sayJson(context, answer);
  return 0;
};

export const run = orRemote(onThisMachine, () => import('./remote/reset.ts'));
