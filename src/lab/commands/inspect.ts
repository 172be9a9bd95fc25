import { lstatSync, type Stats, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import { canonicalPath, openFileStore } from '../../node.ts';
import { type Inspection, inspectImage, type Touch } from '../../operations/inspect.ts';
import { withoutControls } from '../messages.ts';
import { type LabCommand, say, sayJson, wantsJson } from './command.ts';

/** The exit code where an image names what `--untrusted` refuses. */
const reachesOut = 3;

/**
 * `cowherd inspect FILE`: what opening the image would touch. Reads FILE's header and nothing else; of the files that
 * it names it is only asked what they are.
 */
export const run: LabCommand = async (input, context) => {
  const path = resolve(context.cwd, input.operands[0]);
  await using source = await openFileStore(path);
  const inspection = await inspectImage(source, canonicalPath);
  const refused = inspection.touches.some(({ refusal }) => refusal !== undefined);
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

function described({ name, format, bytes, touches }: Inspection): string[] {
  const lines = [`${name}: ${format ?? 'unknown format'}, ${humanSize(bytes)}`];
  if (touches.length === 0) return [...lines, 'It names no other file.'];
  for (const touch of touches) lines.push(...describedTouch(touch));
  return lines;
}

function describedTouch(touch: Touch): string[] {
  const { role, reference, format, files, drivers, places, refusal } = touch;
  const lines = [`${role}: ${reference}${format === undefined ? '' : ` (${format})`}`];
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
