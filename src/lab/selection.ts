import { DiskError } from '../errors.ts';
import { nearest } from './spec/nearest.ts';

/**
 * The seats that a selection names, in the lab's order: names, ranges of numbered names (`student-10..17`, also
 * `student-10..student-17`), and the wildcards `*` and `?`, with commas between; `all` is every seat, where none is
 * called so. Throws `bad-argument` for a part that names nobody, with the nearest name.
 */
export function selectSeats(selections: readonly string[], seats: readonly string[]): readonly string[] {
  const chosen = new Set<string>();
  const known = new Set(seats);
  for (const part of selections.flatMap((selection) => selection.split(','))) {
    const wanted = part.trim();
    if (wanted === '') continue;
    for (const seat of matching(wanted, seats, known)) chosen.add(seat);
  }
  if (chosen.size === 0) throw refuse('No seat was named', selections.join(','), seats);
  return seats.filter((seat) => chosen.has(seat));
}

function matching(wanted: string, seats: readonly string[], known: ReadonlySet<string>): readonly string[] {
  if (known.has(wanted)) return [wanted];
  if (wanted === 'all') return seats;
  if (wanted.includes('..')) return range(wanted, seats, known);
  if (/[*?]/.test(wanted)) {
    const found = seats.filter((seat) => matchesWildcards(wanted, seat));
    if (found.length === 0) throw refuse(`No seat matches "${wanted}"`, wanted, seats);
    return found;
  }
  throw refuse(`There is no seat "${wanted}"`, wanted, seats);
}

/** `*` for any characters, `?` for one. In time that many stars cannot blow up. */
function matchesWildcards(pattern: string, name: string): boolean {
  let at = 0;
  let inName = 0;
  /** Where to go on from when what follows the last star does not match: the star takes one character more. */
  let star = -1;
  let taken = 0;
  while (inName < name.length) {
    if (pattern[at] === '*') {
      star = at;
      taken = inName;
      at++;
    } else if (pattern[at] === '?' || pattern[at] === name[inName]) {
      at++;
      inName++;
    } else if (star >= 0) {
      at = star + 1;
      taken++;
      inName = taken;
    } else return false;
  }
  while (pattern[at] === '*') at++;
  return at === pattern.length;
}

function range(wanted: string, seats: readonly string[], known: ReadonlySet<string>): readonly string[] {
  const [left, right] = wanted.split('..');
  const from = numbered(left);
  const to = /^\d+$/.test(right) ? from && { ...from, number: Number(right) } : numbered(right);
  if (!from || !to || from.prefix !== to.prefix || wanted.split('..').length !== 2) {
    throw refuse(`"${wanted}" is no range of seats: write for example student-10..17`, left, seats);
  }
  if (to.number < from.number) throw refuse(`The range "${wanted}" runs backwards`, left, seats);
  const found = seats.filter((seat) => {
    const one = numbered(seat);
    return one?.prefix === from.prefix && one.number >= from.number && one.number <= to.number;
  });
  // Both ends must be there: `student-10..71` for `..17` should not pass for "all the rest".
  const ends = found.map((seat) => numbered(seat)!.number);
  const absent = [from.number, to.number].find((number) => !ends.includes(number));
  if (absent !== undefined) {
    const name = known.has(left) && absent !== from.number ? `${from.prefix}${absent}` : left;
    throw refuse(`There is no seat "${name}", which the range "${wanted}" names`, name, seats);
  }
  return found;
}

function numbered(name: string): { prefix: string; number: number } | undefined {
  const match = /^(.*?)(\d+)$/.exec(name);
  return match ? { prefix: match[1], number: Number(match[2]) } : undefined;
}

function refuse(message: string, word: string, seats: readonly string[]): DiskError {
  const meant = nearest(word, seats);
  const some =
    seats.length > 3
      ? `${seats[0]}, ${seats[1]} … ${seats[seats.length - 1]} (${seats.length} seats)`
      : seats.join(', ');
  return new DiskError('bad-argument', message, {
    field: 'seats',
    detail: {
      fix: meant === undefined ? `the lab has ${some}` : `did you mean "${meant}"? The lab has ${some}`,
    },
  });
}
