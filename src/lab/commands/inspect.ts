import { existsSync, lstatSync, type Stats, statSync } from 'node:fs';
import { dirname, extname, resolve } from 'node:path';
import { assertInPackage, filesNamedByOvf } from '../../appliance/parse-ovf.ts';
import { humanSize } from '../../cli/sizes.ts';
import { isDiskError } from '../../errors.ts';
import { assertAllowed, untrustedImages } from '../../image/policy.ts';
import { canonicalPath, openFileStore } from '../../node.ts';
import { type Inspection, inspectImage, type Touch } from '../../operations/inspect.ts';
import { isPackage, openPackage } from '../import/package.ts';
import { withoutControls } from '../messages.ts';
import { type LabCommand, say, sayJson, wantsJson } from './command.ts';

/** The exit code where an image names what `--untrusted` refuses. */
const reachesOut = 3;

/**
 * `cowherd inspect FILE`: what opening the image, or importing the appliance, would touch. Reads FILE's header or
 * descriptor and nothing else; of the files that it names it is only asked what they are.
 */
export const run: LabCommand = async (input, context) => {
  const path = resolve(context.cwd, input.operands[0]);
  const inspection = await inspectFile(path);
  const refused = wouldRefuse(inspection.touches);
  if (wantsJson(input)) {
    sayJson(context, {
      ...inspection,
      touches: inspection.touches.map((touch) => ({
        ...touch,
        files: touch.files.map((file) => ({ path: file, is: whatIs(file) })),
      })),
      refused,
    });
  } else for (const line of described(inspection)) say(context, withoutControls(line));
  return refused ? reachesOut : 0;
};

async function inspectFile(path: string): Promise<Inspection> {
  await using source = await openFileStore(path);
  if (await isPackage(path)) return inspectAppliance(path, source.size);
  return await inspectImage(source, canonicalPath);
}

/** What `import` would read of an appliance: of an archive that is in it, of a descriptor that lies beside it. */
async function inspectAppliance(path: string, bytes: number): Promise<Inspection> {
  await using source = await openPackage(path);
  const alone = extname(path).toLowerCase() === '.ovf';
  const touches: Touch[] = [];
  for (const href of filesNamedByOvf(source.descriptor.text, path)) {
    const files = alone ? [resolve(dirname(path), href)] : [];
    const touch = {
      role: 'appliance file',
      reference: href,
      kind: 'file',
      files,
      drivers: [],
      places: [],
    } as const;
    touches.push({ ...touch, refusal: await refusalOf(href, path, alone) });
  }
  return { name: path, format: alone ? 'ovf' : 'ova', bytes, touches };
}

async function refusalOf(href: string, path: string, alone: boolean): Promise<string | undefined> {
  try {
    assertInPackage(href, path);
    const from = { name: path, depth: 0, role: 'file' } as const;
    if (alone) await assertAllowed(href, from, untrustedImages, canonicalPath);
    return undefined;
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return error.message;
  }
}

/** As opening it would: of several names the first counts that a file has, and each before it has to be allowed. */
function wouldRefuse(touches: readonly Touch[]): boolean {
  let found = false;
  for (const { refusal, fallback, files } of touches) {
    if (fallback && found) continue;
    if (refusal !== undefined) return true;
    found = files.some(existsSync);
  }
  return false;
}

function described({ name, format, bytes, touches }: Inspection): string[] {
  const lines = [`${name}: ${format ?? 'unknown format'}, ${humanSize(bytes)}`];
  if (touches.length === 0) return [...lines, 'It names no other file.'];
  for (const touch of touches) lines.push(...describedTouch(touch));
  return lines;
}

function describedTouch(touch: Touch): string[] {
  const { role, reference, format, files, drivers, places, refusal, fallback } = touch;
  const what = fallback ? `${role}, where no file has the name before` : role;
  const lines = [`${what}: ${reference}${format === undefined ? '' : ` (${format})`}`];
  for (const file of files) lines.push(`  opens the file ${file}: ${whatIs(file)}`);
  if (drivers.length > 0) lines.push(`  by ${drivers.join(', ')}`);
  for (const place of places) lines.push(`  with ${place}`);
  lines.push(
    refusal === undefined ? '  allowed to an untrusted image' : `  REFUSED to an untrusted image: ${refusal}`,
  );
  return lines;
}

/** What a name leads to, without opening it. */
function whatIs(path: string): string {
  let own: Stats | undefined;
  try {
    own = lstatSync(path, { throwIfNoEntry: false });
    if (!own) return 'does not exist';
    const stats = own.isSymbolicLink() ? statSync(path, { throwIfNoEntry: false }) : own;
    const link = own.isSymbolicLink() ? 'a symbolic link to ' : '';
    return link + (stats ? kindOf(stats) : 'nothing');
  } catch {
    return own ? 'a symbolic link that leads nowhere' : 'cannot be looked at';
  }
}

function kindOf(stats: Stats): string {
  if (stats.isFile()) return `a file of ${humanSize(stats.size)}`;
  if (stats.isDirectory()) return 'a directory';
  if (stats.isFIFO()) return 'a FIFO';
  if (stats.isSocket()) return 'a socket';
  return stats.isBlockDevice() ? 'a block device' : 'a character device';
}
