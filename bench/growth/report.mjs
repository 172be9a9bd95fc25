// Growth as text, and as charts with logarithmic axes.
import { columns } from '../report.mjs';

const tebi = 1024 ** 4;
const gibi = 1024 ** 3;

function size(x, unit) {
  if (unit === 'count') return x.toLocaleString('en');
  return x >= tebi ? `${x / tebi} TiB` : `${x / gibi} GiB`;
}

/** Over all sizes, and at the end. */
function power({ all, end }) {
  return all === undefined ? '–' : `${all.toFixed(2)}, ${end.toFixed(2)}`;
}

function verdict({ most, kept }) {
  return `${most === 'same' ? 'the same at any size' : 'no worse than linear'} ${kept ? '✓' : '✗'}`;
}

/** @returns {string} a table, a line a curve */
export function growthText(curves) {
  const header = ['growth', 'from … to', 'CPU', 'power', 'wall', 'power', 'memory', 'power', 'goal'];
  const lines = curves.map((one) => {
    const [first, last] = [one.points[0], one.points.at(-1)];
    const span = (of, digits, unit) => `${first[of].toFixed(digits)} … ${last[of].toFixed(digits)} ${unit}`;
    return [
      one.curve,
      `${size(first.x, one.unit)} … ${size(last.x, one.unit)}`,
      span('cpu', 2, 's'),
      power(one.power.cpu),
      span('wall', 2, 's'),
      power(one.power.wall),
      span('peak', 0, 'MiB'),
      power(one.power.peak),
      verdict(one),
    ];
  });
  const worse = curves.filter(({ kept }) => !kept).map(({ curve }) => curve);
  return [
    'Growth: least of all rounds. Power: the cost beyond the program’s start goes with that power of the size, over all sizes and',
    'between the last two (1 is linear; – is next to nothing).',
    '',
    ...columns([header, ...lines]),
    '',
    worse.length === 0 ? 'No curve grows more than it may.' : `More than they may grow: ${worse.join('; ')}.`,
  ].join('\n');
}

const panel = { width: 270, height: 190, left: 40, top: 44, plot: 130, across: 3 };

/** @returns {string} an SVG: for each curve, cost over the cost of its first point, by size over the first size */
export function growthChart(machine, curves) {
  const rows = Math.ceil(curves.length / panel.across);
  const width = panel.width * panel.across + 20;
  const height = rows * panel.height + 50;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="11">`,
    '<title>How costs grow</title>',
    '<rect width="100%" height="100%" fill="#fff"/>',
    label(
      12,
      18,
      'Cost over that of the first point, both axes logarithmic: CPU time (green), memory (blue); dashes: linear',
      ' font-weight="bold"',
    ),
    ...curves.map((one, index) => {
      const at = [(index % panel.across) * panel.width, 26 + Math.floor(index / panel.across) * panel.height];
      return `<g transform="translate(${at[0]} ${at[1]})">${drawCurve(one)}</g>`;
    }),
    label(12, height - 8, `${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}`, ' fill="#777"'),
    '</svg>',
    '',
  ].join('\n');
}

function drawCurve(one) {
  const { points, unit, kept } = one;
  const first = points[0];
  const right = panel.width - 20;
  const bottom = panel.top + panel.plot;
  const xSpan = Math.log(points.at(-1).x / first.x);
  const ratios = points.flatMap(({ cpu, peak }) => [cpu / first.cpu, peak / first.peak]);
  const ySpan = Math.log(Math.max(10, ...ratios));
  const x = (value) => panel.left + (Math.log(value / first.x) / xSpan) * (right - panel.left);
  const y = (ratio) => bottom - (Math.log(Math.max(ratio, 1)) / ySpan) * (panel.plot - 14);
  const line = (of, colour) => {
    const places = points.map((point) => [x(point.x).toFixed(1), y(point[of] / first[of]).toFixed(1)]);
    const dots = places.map(([cx, cy]) => `<circle cx="${cx}" cy="${cy}" r="2.5" fill="${colour}"/>`);
    return `<polyline points="${places.map((place) => place.join(',')).join(' ')}" fill="none" stroke="${colour}"/>${dots.join('')}`;
  };
  const reach = Math.min(xSpan, ySpan);
  const [linearX, linearY] = [x(first.x * Math.exp(reach)), y(Math.exp(reach))];
  const powers = `power: CPU ${power(one.power.cpu)}; memory ${power(one.power.peak)} ${kept ? '✓' : '✗'}`;
  return [
    label(panel.left, 16, one.curve, ' font-weight="bold"'),
    label(panel.left, 30, powers),
    `<path d="M${panel.left} ${panel.top}V${bottom}H${right}" fill="none" stroke="#999"/>`,
    `<path d="M${panel.left} ${bottom}L${linearX.toFixed(1)} ${linearY.toFixed(1)}" stroke="#999" stroke-dasharray="3 3"/>`,
    label(panel.left - 4, bottom, '1', ' text-anchor="end"'),
    label(panel.left - 4, panel.top + 16, `×${Math.exp(ySpan).toFixed(0)}`, ' text-anchor="end"'),
    label(panel.left, bottom + 13, size(first.x, unit)),
    label(right, bottom + 13, size(points.at(-1).x, unit), ' text-anchor="end"'),
    line('peak', '#36c'),
    line('cpu', '#2a7'),
  ].join('');
}

function label(x, y, content, more = '') {
  return `<text x="${x}" y="${y}"${more}>${content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')}</text>`;
}
