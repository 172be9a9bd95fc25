import { resolve } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import { recordDependents } from '../../platform/dependents.ts';
import { count, table } from '../describe.ts';
import { backingPathOf, nameExists } from '../disks/overlay.ts';
import { realPath } from '../lab.ts';
import { adoptedBy } from '../seats/adopt-seats.ts';
import { scanImages } from '../standing/scan.ts';
import { adoptAsSeats } from './adopt-seats.ts';
import { type LabCommand, say, sayJson, shown, wantsJson, warn } from './command.ts';

/**
 * `cowherd adopt`: with a lab, makes clones that others made its seats; else records them beside what they stand on, so that
 * nobody forgets them.
 */
export const run: LabCommand = async (input, context) => {
  const [first] = input.operands;
  return /\.(ya?ml|json)$/i.test(first) ? adoptAsSeats(input, context) : recordClones(input, context);
};

const recordClones: LabCommand = async (input, context) => {
  const dryRun = input.options.dryRun === true;
  const places = input.operands.map((one) => resolve(context.cwd, one));
  for (const [index, path] of places.entries()) {
    if (nameExists(path)) continue;
    throw new DiskError('not-found', `There is no '${input.operands[index]}'`, {
      path,
      detail: { fix: 'name a clone, or a folder of clones; nothing was recorded' },
    });
  }
  const scan = scanImages(places);
  for (const warning of [...scan.warnings, ...scan.leftOut]) warn(context, warning);
  const adopted: { path: string; backing: string }[] = [];
  for (const image of scan.images) {
    const backing = backingPathOf(image);
    // A seat's lab has recorded it.
    if (backing === undefined || image.provenance) continue;
    if (!nameExists(backing)) {
      warn(context, `'${shown(context, image.path)}' stands on '${backing}', which is not there`);
      continue;
    }
    if (image.unnameable) {
      warn(context, `'${shown(context, image.path)}' cannot be recorded: its name is no UTF-8. Rename it`);
      continue;
    }
    const path = realPath(image.path);
    try {
      if (!dryRun) {
        await recordDependents(backing, [path], { by: adoptedBy(path), label: 'an adopted image' });
      }
    } catch (error) {
      if (!isDiskError(error, 'denied')) throw error;
      warn(
        context,
        `Nobody can be told that '${shown(context, path)}' stands on '${backing}': ${error.message}`,
      );
      continue;
    }
    adopted.push({ path, backing: realPath(backing) });
  }
  if (wantsJson(input)) {
    sayJson(context, { adopted, dryRun });
    return 0;
  }
  if (adopted.length > 0)
    say(
      context,
      table(adopted.map((one) => [shown(context, one.path), `on ${shown(context, one.backing)}`])),
    );
  say(context, `${count(adopted.length, 'image')} ${dryRun ? 'would be adopted' : 'adopted'}`);
  return 0;
};
