import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { humanSize } from '../../cli/sizes.ts';
import { nameInWords } from '../../filesystems/volumes.ts';
import { count } from '../describe.ts';
import { nameExists } from '../disks/overlay.ts';
import { assertNoOtherDomain } from '../domain/other-domains.ts';
import { type Lab, openLab } from '../lab.ts';
import { withoutControls } from '../messages.ts';
import { assertOneHost } from '../pool/whereabouts.ts';
import type { Runner } from '../runner/runner.ts';
import type { Seat, SeatDisk } from '../seats/seat.ts';
import { seatDiskFile } from '../seats/seat-disk.ts';
import { assertKeyOfDisk, disksOf } from '../seats/seat-key.ts';
import { assertMayChange, type Compacted, compactImage } from '../space/compact.ts';
import { assertNobodyStandsOn, assertNotRunning, assertOwnDisks } from '../standing/release.ts';
import {
  type Input,
  type LabCommand,
  labFrom,
  lazyProgress,
  locked,
  runnerOf,
  say,
  sayJson,
  seatsFrom,
  shown,
  wantsJson,
} from './command.ts';
import { assertFileNotSaved } from './saved-memory.ts';
import { stopFirst } from './stop-first.ts';

/** `cowherd compact`: gives back to the host what guests have deleted. */
export const run: LabCommand = async (input, context) => {
  const [first] = input.operands;
  const isImage =
    first !== undefined && !/\.(ya?ml|json)$/i.test(first) && existsSync(resolve(context.cwd, first));
  if (!isImage) return await compactSeats(input, context);
  const paths = input.operands.map((one) => resolve(context.cwd, one));
  for (const path of paths) {
    assertMayChange(path);
    await assertFileNotSaved(path, context);
  }
  return await compactAll(
    paths.map((path) => ({ path })),
    input,
    context,
  );
};

type Compactable = Pick<SeatDisk, 'path' | 'encryption'>;

async function compactSeats(input: Input, context: CliContext): Promise<number> {
  const { lab, rest } = labFrom(input, context);
  await using runner = await runnerOf(lab);
  const dryRun = input.options.dryRun === true;
  const work = async () => {
    const now = openLab(lab.spec.file, context.cwd);
    const names = seatsFrom(now, rest).filter(
      (seat) => rest.length > 0 || nameExists(now.seats.get(seat)!.disk.path),
    );
    const seats = names.map((seat) => now.seats.get(seat)!);
    const check = async (off: readonly Seat[]) => {
      await assertNotRunning(off, runner, 'compact');
      await assertOneHost(seats, runner);
      await assertOwnDisks(seats, runner);
      await compactable(now, seats, runner);
    };
    const stopped = new Set(await stopFirst(seats, { runner, check }, input, context));
    if (dryRun && stopped.size > 0 && !wantsJson(input))
      say(context, 'What these give back is seen when they are off');
    const off = seats.filter(({ name }) => !dryRun || !stopped.has(name));
    await assertNotRunning(off, runner, 'compact');
    return await compactAll(await compactable(now, off, runner), input, context);
  };
  return dryRun ? await work() : await locked(lab, work);
}

/** Disks of seats, where they may be written to. It says why not, where one is not as it should be. */
async function compactable(lab: Lab, seats: readonly Seat[], runner: Runner): Promise<readonly SeatDisk[]> {
  const disks: SeatDisk[] = [];
  for (const seat of seats) {
    await seatDiskFile(lab, seat.name);
    const there = disksOf(seat).filter(({ path }) => nameExists(path));
    for (const disk of there) await assertKeyOfDisk(seat.name, disk);
    disks.push(...there);
  }
  const paths = disks.map(({ path }) => path);
  await assertNobodyStandsOn(paths, lab);
  await assertNoOtherDomain(paths, lab, runner);
  return disks;
}

async function compactAll(disks: readonly Compactable[], input: Input, context: CliContext): Promise<number> {
  const dryRun = input.options.dryRun === true;
  const done: Compacted[] = [];
  const bar = lazyProgress(context, 'reading', 'bytes');
  try {
    for (const { path, encryption } of disks) {
      const { signal } = context;
      const result = await compactImage(path, { dryRun, encryption, signal, onProgress: bar.update });
      done.push(result);
      if (!wantsJson(input)) for (const line of linesOf(result, dryRun, context)) say(context, line);
    }
  } finally {
    bar.end();
  }
  const freed = done.reduce((sum, one) => sum + one.before - one.after, 0);
  if (wantsJson(input)) sayJson(context, { images: done, freed, dryRun });
  else if (!dryRun) say(context, `${humanSize(freed)} given back`);
  return 0;
}

function linesOf(one: Compacted, dryRun: boolean, context: CliContext): readonly string[] {
  const { path, volumes, freed, zeroes, leaked, before, after } = one;
  const what = `${humanSize(freed)} of deleted files and ${humanSize(zeroes)} of zeroes stored${leaked > 0 ? `, ${count(leaked, 'cluster')} lost by a run that was cut off` : ''}`;
  return [
    `${shown(context, path)}: ${what}${dryRun ? '' : `; ${humanSize(before)} by du, now ${humanSize(after)}`}`,
    ...volumes.flatMap(({ partition, logical, note }) =>
      note === undefined
        ? []
        : [
            `  (${withoutControls(nameInWords(partition, logical))}: only zeroes were looked for: ${withoutControls(note)})`,
          ],
    ),
  ];
}
