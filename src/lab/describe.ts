/** `student-03, student-10..17`: names in the lab's order, runs of numbers drawn together. */
export function describeSeats(names: readonly string[]): string {
  const parts: string[] = [];
  let run: { prefix: string; first: string; last: string; count: number } | undefined;
  const close = () => {
    if (!run) return;
    if (run.count === 1) parts.push(run.prefix + run.first);
    else if (run.count === 2) parts.push(run.prefix + run.first, run.prefix + run.last);
    else parts.push(`${run.prefix}${run.first}..${run.last}`);
    run = undefined;
  };
  for (const name of names) {
    const match = /^(.*?)(\d+)$/.exec(name);
    if (!match) {
      close();
      parts.push(name);
      continue;
    }
    const [, prefix, digits] = match;
    if (run && run.prefix === prefix && Number(digits) === Number(run.last) + 1) {
      run.last = digits;
      run.count += 1;
    } else {
      close();
      run = { prefix, first: digits, last: digits, count: 1 };
    }
  }
  close();
  return parts.join(', ');
}

/** `1 seat`, `40 seats`. */
export function count(number: number, word: string): string {
  return `${number} ${word}${number === 1 ? '' : 's'}`;
}

/** A duration for people, from milliseconds: `3.2 ms`, `1.4 s`. */
export function milliseconds(value: number): string {
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  return `${(value / 1000).toFixed(1)} s`;
}

/** Columns that line up; the last one is as long as it is. Right-aligned where `right` says so. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  return rows
    .map((row) =>
      row
        .map((cell, i) => (right.includes(i) ? cell.padStart(widths[i]) : cell.padEnd(widths[i])))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
