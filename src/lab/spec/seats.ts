import { mostSeats } from './schema.ts';

/** Seats as the lab file may give them. */
export type SeatsValue =
  | number
  | readonly string[]
  | { readonly count: number; readonly name: string; readonly first: number };

/** Longest seat name, in characters. */
const longestName = 60;

/**
 * The seats' names, in order. `wrong` hears of names that two seats would share, case aside: file systems and host
 * names may not tell them apart.
 */
export function seatNames(
  value: SeatsValue,
  wrong: (path: readonly (string | number)[], message: string, fix?: string) => void,
): readonly string[] {
  if (Array.isArray(value)) {
    const seen = new Map<string, string>();
    for (const [index, name] of (value as readonly string[]).entries()) {
      const twin = seen.get(name.toLowerCase());
      if (twin !== undefined)
        wrong(['seats', index], `two seats are called "${twin}"`, 'give each its own name');
      seen.set(name.toLowerCase(), name);
    }
    return value as readonly string[];
  }
  const { count, name, first } =
    typeof value === 'number'
      ? { count: value, name: 'student-{nn}', first: 1 }
      : (value as { count: number; name: string; first: number });
  const names = Array.from({ length: Math.min(count, mostSeats) }, (_, i) => fill(name, first + i));
  if (names[names.length - 1].length > longestName) {
    wrong(['seats', 'name'], `seats' names must have at most ${longestName} characters`);
  }
  return names;
}

/** `student-{nn}` and 7 make `student-07`: as many digits as there are n, or more where the number needs them. */
function fill(pattern: string, number: number): string {
  return pattern.replace(/\{(n+)\}/, (_, letters: string) => String(number).padStart(letters.length, '0'));
}
