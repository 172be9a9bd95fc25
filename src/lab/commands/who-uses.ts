import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { DiskError } from '../../errors.ts';
import { recordFolder, recordsFor } from '../../platform/dependents.ts';
import { count, milliseconds, table } from '../describe.ts';
import { scanImages, standingOn } from '../standing/scan.ts';
import { type LabCommand, say, sayJson, shown, wantsJson, warn } from './command.ts';

/**
 * `cowherd who-uses FILE [DIR...]`: the images that stand on FILE, directly or through others. Looks into the folders
 * given, that of FILE, and those where labs have recorded clones of it; where none is given, also into the current one
 * and into those beside which a lab's pool with FILE or clones of it lies, which is where lab files are.
 */
export const run: LabCommand = async (input, context) => {
  const [file, ...folders] = input.operands;
  const path = resolve(context.cwd, file);
  if (!existsSync(path)) throw new DiskError('not-found', `There is no file '${file}'`, { path });
  for (const folder of folders) {
    if (existsSync(resolve(context.cwd, folder))) continue;
    throw new DiskError('not-found', `There is no folder '${folder}'`, { path: folder });
  }
  const began = performance.now();
  const recorded = recordsFor(path).flatMap((record) => record.dependents.map((one) => dirname(one)));
  const near = [...new Set([...recorded, dirname(path)])];
  const scan = scanImages(
    folders.map((folder) => resolve(context.cwd, folder)),
    [...near, ...(folders.length > 0 ? [] : [context.cwd, ...labFolders(near)])].filter((place) =>
      existsSync(place),
    ),
  );
  const users = standingOn(path, scan.images);
  const ms = performance.now() - began;
  for (const warning of [...scan.warnings, ...scan.leftOut]) warn(context, warning);
  if (wantsJson(input)) {
    sayJson(context, {
      file: path,
      users: users.map(({ image, distance }) => ({
        path: image.path,
        distance,
        backing: image.backing!.path,
        lab: image.provenance?.lab ?? null,
        seat: image.provenance?.seat ?? null,
      })),
      scanned: scan.files,
      milliseconds: Math.round(ms),
    });
    return 0;
  }
  if (users.length > 0) {
    const rows = users.map(({ image, distance }) => [
      shown(context, image.path),
      image.provenance ? `${image.provenance.lab} ${image.provenance.seat}` : '',
      distance === 1 ? '' : `through ${count(distance - 1, 'other')}`,
    ]);
    say(context, table(rows));
  }
  const found =
    users.length === 0 ? 'Nothing found that stands on it' : `${count(users.length, 'image')} on it`;
  say(context, `${found} (${count(scan.files, 'file')} looked at in ${milliseconds(ms)})`);
  return 0;
};

/** Of folders that are pools of labs, those above them: a pool is beside its lab file unless that says otherwise. */
function labFolders(folders: readonly string[]): readonly string[] {
  return folders.filter((folder) => existsSync(join(folder, recordFolder))).map((folder) => dirname(folder));
}
