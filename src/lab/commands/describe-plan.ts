import type { CliContext } from '../../cli/context.ts';
import { count, describeSeats } from '../describe.ts';
import type { Plan, Problem, Step } from '../plan.ts';
import { colours, shown } from './command.ts';

/** The plan as lines for people, seats of one kind drawn together. */
export function describePlan(plan: Plan, context: CliContext): readonly string[] {
  const c = colours(context);
  const lines: string[] = [];
  const line = (mark: string, what: string, seats: readonly string[]) =>
    lines.push(`  ${mark} ${what.padEnd(22)} ${describeSeats(seats)}`.trimEnd());
  for (const step of plan.steps) {
    if (step.do === 'guard') lines.push(`  ${c.yellow('~')} ${shown(context, step.path)}: ${step.what}`);
  }
  const groups: readonly { mark: string; word: string; pick: (step: Step) => string | undefined }[] = [
    { mark: c.green('+'), word: 'disk', pick: (step) => (step.do === 'create' ? step.seat : undefined) },
    {
      mark: c.green('+'),
      word: 'definition',
      pick: (step) => (step.do === 'define' && step.change === 'new' ? step.seat : undefined),
    },
    {
      mark: c.yellow('~'),
      word: 'changed definition',
      pick: (step) => (step.do === 'define' && step.change === 'rewrite' ? step.seat : undefined),
    },
    {
      mark: c.green('+'),
      word: 'extra disk',
      pick: (step) => (step.do === 'add' ? step.seat : undefined),
    },
    {
      mark: c.green('+'),
      word: 'seed',
      pick: (step) => (step.do === 'seed' && step.change === 'new' ? step.seat : undefined),
    },
    {
      mark: c.yellow('~'),
      word: 'changed seed',
      pick: (step) => (step.do === 'seed' && step.change === 'rewrite' ? step.seat : undefined),
    },
    {
      mark: c.green('+'),
      word: 'domain to define',
      pick: (step) => (step.do === 'register' ? step.seat : undefined),
    },
    {
      mark: c.yellow('~'),
      word: 'disk to link anew',
      pick: (step) => (step.do === 'relink' ? step.seat : undefined),
    },
    {
      mark: c.yellow('~'),
      word: 'disk to grow',
      pick: (step) => (step.do === 'grow' ? step.seat : undefined),
    },
    {
      mark: c.yellow('~'),
      word: 'disk to set room aside for',
      pick: (step) => (step.do === 'reserve' ? step.seat : undefined),
    },
    {
      mark: c.red('-'),
      word: 'domain to remove',
      pick: (step) => (step.do === 'withdraw' ? `${step.seat}@${step.host}` : undefined),
    },
    {
      mark: c.red('-'),
      word: 'seat to remove',
      pick: (step) => (step.do === 'remove' ? step.seat : undefined),
    },
  ];
  for (const { mark, word, pick } of groups) {
    const seats = plan.steps.flatMap((step) => pick(step) ?? []);
    if (seats.length > 0) line(mark, countWords(seats.length, word), seats);
  }
  const pruned = plan.steps.some((step) => step.do === 'remove');
  if (plan.unlisted.length > 0 && !pruned) {
    line(' ', `${plan.unlisted.length} kept, not listed`, plan.unlisted);
    lines.push(`      (made before, not in the lab file any more; 'up --prune' removes them)`);
  }
  if (plan.former.length > 0) {
    line(' ', `${plan.former.length} on a former master`, plan.former);
    lines.push(`      (they stay on it, and change over when they are reset)`);
  }
  if (plan.stale.length > 0) {
    line(c.red('!'), `${plan.stale.length} on an older master`, plan.stale);
    lines.push(`      (they do not start until they are reset)`);
  }
  for (const note of plan.notes) lines.push(`    ${note}`);
  return [...lines, ...describeProblems(plan.problems, context)];
}

/** What keeps `up` from doing anything, as lines for people. */
export function describeProblems(problems: readonly Problem[], context: CliContext): readonly string[] {
  const c = colours(context);
  return problems.flatMap(({ seat, what, path, fix }) => {
    const where = seat === undefined ? '' : `${seat}: `;
    return [
      `  ${c.red('!')} ${where}${what}: ${shown(context, path)}`,
      ...fix.split('\n').map((one) => `      ${one}`),
    ];
  });
}

/** `1 disk to grow`, `3 disks to grow`. */
function countWords(number: number, words: string): string {
  const [first, ...rest] = words.split(' ');
  if (first === 'changed' || first === 'extra') return `${number} ${words}${number === 1 ? '' : 's'}`;
  return [count(number, first), ...rest].join(' ');
}

/** Whether `up` would do nothing. */
export function isEmpty(plan: Plan): boolean {
  return plan.steps.length === 0 && plan.problems.length === 0;
}
