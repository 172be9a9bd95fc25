import type { CliContext } from '../../cli/context.ts';
import { humanSize } from '../../cli/sizes.ts';
import { count, describeSeats, table } from '../describe.ts';
import type { Lab } from '../lab.ts';
import { formerPoolProblem } from '../pool/changed-pool.ts';
import { lostPoolProblem } from '../pool/lost-pool.ts';
import { isDown } from '../runner/runner.ts';
import { type LabStatus, type SeatStatus, statusOf } from '../status.ts';
import { describeChanges, type MasterVerdict } from '../verify.ts';
import {
  colours,
  type Input,
  type LabCommand,
  labFrom,
  lazyProgress,
  orRemote,
  runnerOf,
  say,
  sayJson,
  shown,
  wantsJson,
  warn,
} from './command.ts';
import { describeProblems } from './describe-plan.ts';
import { watchSeats } from './watch-seats.ts';

/** `cowherd status`: the master and every seat as they are. Exit code 1 when the master is not what it was, or the pool is not there. */
const onThisMachine: LabCommand = async (input, context) => {
  const { lab } = labFrom(input, context, 0);
  await using runner = await runnerOf(lab);
  const bar = lazyProgress(context, 'reading the master', 'bytes');
  const digest =
    input.options.verify === true ? { signal: context.signal, onProgress: bar.update } : undefined;
  let status: LabStatus;
  try {
    status = await statusOf(lab, runner, digest);
  } finally {
    bar.end();
  }
  for (const warning of runner.warnings?.() ?? []) warn(context, warning);
  if (wantsJson(input)) sayStatus(input, context, jsonOf(lab, status));
  else for (const line of linesOf(lab, status, context, input.options.brief === true)) say(context, line);
  if (input.options.watch === true) {
    // What a libvirt says that does not have a seat's domain would be no answer.
    const elsewhere = new Set(
      status.seats.flatMap(({ name, formerly }) => (formerly === undefined ? [] : name)),
    );
    const watched = [...lab.seats.values()].filter(({ name }) => !elsewhere.has(name));
    await watchSeats(watched, runner, input, context);
  }
  const { state } = status.master;
  return (state === 'as-it-was' || state === 'unknown') && !status.lost && !status.elsewhere ? 0 : 1;
};

/** With --watch others follow: each is one line then. */
export function sayStatus(input: Input, context: CliContext, value: unknown): void {
  if (input.options.watch === true) say(context, JSON.stringify(value));
  else sayJson(context, value);
}

export const run = orRemote(onThisMachine, () => import('./remote/status.ts'), 0);

function jsonOf(lab: Lab, { master, seats, leftDisks, lost, elsewhere }: LabStatus): unknown {
  const known = lab.state?.master;
  return {
    lab: lab.name,
    file: lab.spec.file,
    pool: lab.pool,
    runner: lab.spec.runner,
    master: {
      path: lab.spec.master.path,
      format: known?.format ?? null,
      size: known?.size ?? null,
      content: known?.content ?? null,
      ...master,
    },
    seats,
    leftDisks,
    ...(lost ? { lost: lost.seats } : {}),
    ...(elsewhere ? { elsewhere: { pool: elsewhere.pool, seats: elsewhere.seats } } : {}),
  };
}

function linesOf(
  lab: Lab,
  { master, seats, leftDisks, lost, elsewhere }: LabStatus,
  context: CliContext,
  brief: boolean,
): readonly string[] {
  const c = colours(context);
  const lines = [
    `${c.bold(lab.name)}: ${count(lab.seats.size, 'seat')} in ${shown(context, lab.pool)}, runner ${lab.spec.runner}`,
    `master ${shown(context, lab.spec.master.path)}: ${lost ? c.red('nothing is there of the seats that were made') : verdictText(master, lab, c)}`,
    ...(master.verified && lab.state ? [`content ${lab.state.master.content}`] : []),
  ];
  if (seats.length > 0 && !brief) {
    const rows = seats.map((seat) => [
      seat.name,
      stateText(seat),
      seat.apparent === 0 ? '-' : humanSize(seat.apparent),
      seat.apparent === 0 ? '-' : humanSize(seat.allocated),
      noteOn(seat),
    ]);
    lines.push('', table([['SEAT', 'STATE', 'SIZE', 'ON DISK', ''], ...rows], [2, 3]), '');
  }
  lines.push(summary(seats), ...leftLines(leftDisks, context));
  if (lost) lines.push(...describeProblems([lostPoolProblem(lost)], context));
  if (elsewhere) lines.push(...describeProblems([formerPoolProblem(elsewhere, lab)], context));
  return lines;
}

/** So many files are named one by one. */
const fewFiles = 8;

/** Of each extra disk that the lab file has no more: whose are there, and what removes them. */
function leftLines(left: LabStatus['leftDisks'], context: CliContext): readonly string[] {
  return [...new Set(left.map(({ disk }) => disk))].map((disk) => {
    const some = left.filter((one) => one.disk === disk);
    const bytes = some.reduce((sum, { allocated }) => sum + allocated, 0);
    const quoted = some.map(({ path }) => `'${shown(context, path).replaceAll("'", `'\\''`)}'`);
    const files = quoted.length > fewFiles ? `${quoted[0]}, and those of the others` : quoted.join(' ');
    return `disk "${disk}" is not in the lab file any more and was kept: ${describeSeats(some.map(({ seat }) => seat))} (${humanSize(bytes)} by du). Where it is not wanted: 'cowherd up', then rm ${files}`;
  });
}

function verdictText(verdict: MasterVerdict, lab: Lab, c: ReturnType<typeof colours>): string {
  switch (verdict.state) {
    case 'as-it-was':
      return verdict.verified ? c.green('as it was (its whole content compared)') : c.green('as it was');
    case 'unknown':
      return "no seat was made yet ('cowherd up')";
    case 'touched':
      return `${c.yellow('touched')}: ${describeChanges(verdict.changes, lab)}. 'cowherd status --verify' compares its content`;
    case 'missing':
      return `${c.red('missing')}: ${describeChanges(verdict.changes, lab)}`;
    case 'changed':
      return `${c.red('changed')}: ${describeChanges(verdict.changes, lab)}. Bring it back from a backup, or make seats new: 'cowherd reset all --accept-master'`;
  }
}

function stateText(seat: SeatStatus): string {
  return seat.disk === 'missing' && seat.state === 'off' ? 'not made' : seat.state;
}

function noteOn(seat: SeatStatus): string {
  const notes: string[] = [];
  if (seat.host !== undefined) notes.push(`on ${seat.host}`);
  if (seat.alsoOn.length > 0)
    notes.push(`and on ${seat.alsoOn.join(', ')}: 'cowherd plan' says what can be done`);
  if (seat.formerly !== undefined)
    notes.push(`left at '${seat.formerly}', where it may run: 'cowherd plan' says what can be done`);
  if (seat.state === 'saved' && seat.disk !== 'missing')
    notes.push('its memory was saved: it goes on from there when it is started');
  if (seat.state === 'saved' && seat.disk === 'missing')
    notes.push('its disk was deleted, and a memory was saved over it');
  if (seat.disk === 'missing' && seat.state !== 'in use' && !isDown(seat.state))
    notes.push('its disk was deleted: what its guest has written goes when it stops');
  if (seat.disk === 'stale') notes.push('on an older master: reset it');
  if (seat.disk === 'former') notes.push('on a former master: changes over when it is reset');
  if (seat.disk === 'flat') notes.push('independent of the master');
  if (seat.disk === 'foreign') notes.push('its disk is not of this lab');
  if (seat.disk === 'damaged') notes.push('its disk is damaged');
  if (!seat.listed) notes.push('not in the lab file any more');
  if (seat.disk !== 'missing' && !seat.defined && seat.listed) notes.push("no definition: 'cowherd up'");
  return notes.join('; ');
}

function summary(seats: readonly SeatStatus[]): string {
  const counts = new Map<string, number>();
  for (const seat of seats) counts.set(stateText(seat), (counts.get(stateText(seat)) ?? 0) + 1);
  const states = [...counts].map(([state, number]) => `${number} ${state}`).join(', ');
  const apparent = seats.reduce((sum, seat) => sum + seat.apparent, 0);
  const allocated = seats.reduce((sum, seat) => sum + seat.allocated, 0);
  return `${states}; disks ${humanSize(apparent)} by ls -l, ${humanSize(allocated)} by du`;
}
