// The figures as text, and as a chart.

const two = (figure) => figure.toFixed(2);

/** What a goal says and whether it was met. */
function verdict({ goal, wall, cpu, ours }) {
  const parts = [];
  if (goal.wall !== undefined) parts.push([`≤ ${goal.wall}`, wall.median <= goal.wall]);
  if (goal.cpu !== undefined) parts.push([`CPU ≤ ${goal.cpu}`, cpu.median <= goal.cpu]);
  if (goal.peak !== undefined) parts.push([`≤ ${goal.peak} MiB`, ours.peak.max <= goal.peak]);
  return parts.map(([text, met]) => `${text} ${met ? '✓' : '✗'}`).join(', ');
}

/** @returns {string} a table, a line a job */
export function asText(machine, rows) {
  const header = ['job', 'wall', '(min … max)', 'CPU', 'memory', 'ours', 'peer', 'against', 'goal'];
  const lines = rows.map((row) => [
    row.job,
    two(row.wall.median),
    `(${two(row.wall.min)} … ${two(row.wall.max)})`,
    two(row.cpu.median),
    `${row.ours.peak.median.toFixed(0)} / ${row.theirs.peak.median.toFixed(0)} MiB`,
    `${row.ours.wall.median.toFixed(2)} s`,
    `${row.theirs.wall.median.toFixed(2)} s`,
    row.peer,
    verdict(row),
  ]);
  return [
    `${machine.cpu}, ${machine.cpus} CPUs, ${machine.memory} GiB; Linux ${machine.kernel}; Node ${machine.node}; ${machine.qemu}`,
    'wall, CPU: our time over the peer’s, run by run (median, least, greatest); process start included',
    '',
    ...columns([header, ...lines]),
  ].join('\n');
}

/** @returns {string[]} lines of cells, each column as wide as its widest cell */
export function columns(lines) {
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  return lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column]))
      .join('  ')
      .trimEnd(),
  );
}

/** @returns {string} an SVG: a bar from the least to the greatest ratio of wall times, a mark at the median, the goal */
export function asChart(machine, rows) {
  const left = 230;
  const width = 560;
  const line = 22;
  const most = Math.max(1.2, ...rows.map(({ wall }) => Math.min(wall.median * 1.15, 4)));
  const x = (ratio) => (left + (Math.min(ratio, most) / most) * width).toFixed(1);
  const height = 60 + rows.length * line;
  const text = (at, y, anchor, content, more = '') =>
    `<text x="${at}" y="${y}" text-anchor="${anchor}"${more}>${content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')}</text>`;
  const bars = rows.map(({ job, wall, goal }, index) => {
    const y = 40 + index * line;
    const goalMark =
      goal.wall === undefined
        ? ''
        : `<path d="M${x(goal.wall)} ${y}v16" stroke="#333" stroke-dasharray="2 2"/>`;
    const colour = wall.median <= (goal.wall ?? 1) ? '#2a7' : '#c63';
    return [
      text(left - 8, y + 12, 'end', job),
      `<rect x="${x(wall.min)}" y="${y + 5}" width="${Math.max(1, x(wall.max) - x(wall.min))}" height="6" fill="${colour}" opacity="0.35"/>`,
      `<circle cx="${x(wall.median)}" cy="${y + 8}" r="4" fill="${colour}"/>`,
      goalMark,
      text(left + width + 8, y + 12, 'start', two(wall.median)),
    ].join('');
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 60}" height="${height}" font-family="sans-serif" font-size="12">`,
    '<title>Wall time over the peer’s</title>',
    '<rect width="100%" height="100%" fill="#fff"/>',
    text(
      left,
      16,
      'start',
      'Wall time over the peer’s (1 = equal; left is faster; dashes: the goal)',
      ' font-weight="bold"',
    ),
    `<path d="M${x(1)} 26V${height - 10}" stroke="#999"/>`,
    text(x(1), 36, 'middle', '1'),
    ...bars,
    text(
      left,
      height - 2,
      'start',
      `${machine.cpu}, Node ${machine.node}, ${machine.qemu}`,
      ' font-size="9" fill="#777"',
    ),
    '</svg>',
    '',
  ].join('\n');
}
