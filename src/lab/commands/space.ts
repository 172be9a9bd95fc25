import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { humanSize } from '../../cli/sizes.ts';
import { table } from '../describe.ts';
import { realPath } from '../lab.ts';
import { measurePool, type PoolSpace } from '../space/measure.ts';
import { type LabCommand, labFrom, say, sayJson, shown, wantsJson, warn } from './command.ts';

/** `cowherd space`: what seats take, share, and may come to take. */
export const run: LabCommand = async (input, context) => {
  const [first] = input.operands;
  const folder = first === undefined ? undefined : resolve(context.cwd, first);
  const isPool = folder !== undefined && existsSync(folder) && statSync(folder).isDirectory();
  const lab = isPool ? undefined : labFrom(input, context, 0).lab;
  const space = await measurePool(lab ? lab.pool : realPath(folder!), lab);
  for (const warning of space.warnings) warn(context, warning);
  if (wantsJson(input)) {
    const short = Math.max(0, space.growth - space.fileSystem.available);
    sayJson(context, { ...space, short, overcommit: lab?.spec.overcommit ?? null });
  } else for (const line of linesOf(space, lab === undefined, context)) say(context, line);
  return 0;
};

function linesOf(space: PoolSpace, byLab: boolean, context: CliContext): readonly string[] {
  const { seats, masters, totals, growth, fileSystem } = space;
  const figures = ({ apparent, own, shared, worst }: PoolSpace['totals']) =>
    [apparent, own, shared, worst].map(humanSize);
  const rows = seats.map((seat) => [
    byLab && seat.lab !== undefined ? `${seat.lab}/${seat.name}` : seat.name,
    ...figures(seat),
  ]);
  const head = ['SEAT', 'LS -L', 'OWN', 'SHARED', 'AT WORST'];
  const { available, total } = fileSystem;
  const small = seats.flatMap(({ name, device }) =>
    device && device.full > device.size ? [{ name, ...device }] : [],
  );
  const over = growth - available;
  return [
    table([head, ...rows, ['all', ...figures(totals)]], [1, 2, 3, 4]),
    '',
    ...masters.map(
      ({ path, apparent, allocated }) =>
        `shared: ${shown(context, path)}, ${humanSize(apparent)} by ls -l, ${humanSize(allocated)} by du, once for all`,
    ),
    ...small.map(
      ({ name, path, size, full }) =>
        `${name}: ${path} has ${humanSize(size)}, ${humanSize(full - size)} less than its disk may come to need`,
    ),
    `free: ${humanSize(available)} of ${humanSize(total)}; the seats may come to write ${humanSize(growth)} more`,
    over > 0
      ? `that is ${humanSize(over)} more than there is: make room before they do, or 'compact' what guests have deleted`
      : 'there is room for all of it',
  ];
}
