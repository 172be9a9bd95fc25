import { DiskError } from '../../../errors.ts';
import { count, describeSeats, milliseconds } from '../../describe.ts';
import { describeOnHosts, type OnHost, thrownAway } from '../../remote/dry-run.ts';
import type { RemoteView } from '../../remote/lab.ts';
import { assertOff, assertResettable, resetRemote, savedIn, seatsFound } from '../../remote/reset.ts';
import { assertNobodyStandsThere } from '../../remote/standing.ts';
import type { Beside } from '../../runner/runner.ts';
import { savedGoes } from '../../seats/saved-memory.ts';
import type { Seat } from '../../seats/seat.ts';
import { assertMakeable } from '../../spec/load.ts';
import { warnOfBeside } from '../beside.ts';
import { type LabCommand, lazyProgress, say, sayJson, startToo, wantsJson } from '../command.ts';
import { stopFirst } from '../stop-first.ts';
import { lockedRemote, lookAt, remoteLabFrom, selected } from './lab.ts';

/** `cowherd reset` for a lab whose hosts keep its seats. */
export const run: LabCommand = async (input, context) => {
  const { lab: remote, file, rest } = remoteLabFrom(input, context);
  assertMakeable(remote.spec);
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
  let stopped: readonly string[] = [];
  let beside: readonly Beside[] = [];
  let hosts: readonly OnHost[] = [];
  const besideOf = async (seats: readonly Seat[], view: RemoteView) => {
    await lab.prepareDefinitions(seats, view);
    return await warnOfBeside(seats, lab.runner, { dryRun }, context);
  };
  const work = async () => {
    let view = await lookAt(lab, context);
    const seats = seatsFound(lab, view, names);
    const check = async () => {
      await assertResettable(lab, view, seats);
      await assertNobodyStandsThere(lab, seats, 'release');
    };
    stopped = await stopFirst(seats, { runner: lab.runner, gracefulMs: 0, check }, input, context);
    if (dryRun) {
      const up = new Set(stopped);
      const off = seats.filter(({ name }) => !up.has(name));
      assertOff(view, off, 'reset');
      saved = savedIn(view, off);
      await check();
      beside = await besideOf(seats, view);
      hosts = thrownAway(lab, view, seats);
      return;
    }
    if (stopped.length > 0) view = await lab.look({ signal: context.signal });
    assertOff(view, seats, 'reset');
    saved = savedIn(view, seats);
    await assertNobodyStandsThere(lab, seats, 'release');
    beside = await besideOf(seats, view);
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
  const told = input.options.stop === true ? { stopped } : {};
  const besideToo = beside.length > 0 ? { beside } : {};
  const answer = {
    lab: lab.spec.name,
    seats: names,
    saved,
    ...besideToo,
    ...(dryRun ? { hosts } : {}),
    ...told,
    dryRun,
    milliseconds: Number(ms.toFixed(1)),
  };
  const json = wantsJson(input);
  if (!json) {
    const which = `${count(names.length, dryRun ? 'disk' : 'seat')}`;
    say(
      context,
      dryRun
        ? `Would throw away ${which}: ${describeSeats(names)}`
        : `${which} reset in ${milliseconds(ms)}: ${describeSeats(names)}`,
    );
    for (const line of describeOnHosts(hosts)) say(context, line);
    if (saved.length > 0) say(context, savedGoes(saved, dryRun));
  }
  if (input.options.start === true && !dryRun) return startToo(input, context, [file, ...rest], answer);
  if (json) sayJson(context, answer);
  return 0;
};
