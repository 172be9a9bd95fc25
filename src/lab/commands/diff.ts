import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { humanSize } from '../../cli/sizes.ts';
import { DiskError } from '../../errors.ts';
import { unfiltered } from '../../image/image.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { count } from '../describe.ts';
import { diffImages, type ImageDiff, type VolumeDiff } from '../diff/diff-images.ts';
import type { FileChange } from '../diff/diff-trees.ts';
import { assertSoundLayer } from '../disks/sound-image.ts';
import type { Lab } from '../lab.ts';
import { withoutControls } from '../messages.ts';
import { assertNotSavedIfAsked } from '../seats/saved-memory.ts';
import type { DiskEncryption } from '../seats/seat.ts';
import { assertKeyOfDisk, keyFor } from '../seats/seat-key.ts';
import { assertMadeOn } from '../standing/footing.ts';
import {
  colours,
  type Input,
  type LabCommand,
  labFrom,
  runnerOf,
  say,
  sayJson,
  seatsFrom,
  shown,
  wantsJson,
} from './command.ts';
import { assertFileNotSaved } from './saved-memory.ts';

/** `cowherd diff`: what a seat changed against its master. */
export const run: LabCommand = async (input, context) => {
  const { path, name, other, encryption, lab } = subject(input, context);
  if (lab) {
    await using runner = await runnerOf(lab);
    await assertNotSavedIfAsked([lab.seats.get(name)!], runner);
  } else for (const image of [path, other]) if (image !== undefined) await assertFileNotSaved(image, context);
  await assertKeyOfDisk(name, { path, encryption });
  await using image = await openImageFile(path, { policy: trustedImages, ...keyFor(encryption) });
  await using against =
    other === undefined ? undefined : await openImageFile(other, { policy: trustedImages });
  for (const one of [image, ...(against ? [against] : [])]) {
    const { layer } = unfiltered(one);
    await assertSoundLayer(layer, { name: layer.source.name, signal: context.signal });
    await assertMadeOn(one, context.signal);
  }
  const before = against ?? image.backing;
  if (!before) {
    throw new DiskError('bad-argument', `'${shown(context, path)}' stands on no other image`, {
      path,
      detail: { fix: `name what to compare it with: ${context.program} diff IMAGE OTHER` },
    });
  }
  const diff = await diffImages(before, image, { signal: context.signal });
  const master = before.layer.source.name;
  if (wantsJson(input)) sayJson(context, { image: path, against: master, ...diff });
  else {
    say(context, `${name} against ${shown(context, master)}`);
    describe(diff, context);
  }
  return 0;
};

function subject(
  input: Input,
  context: CliContext,
): { path: string; name: string; other?: string; encryption?: DiskEncryption; lab?: Lab } {
  const [first, second] = input.operands;
  const isImage =
    first !== undefined && !/\.(ya?ml|json)$/i.test(first) && existsSync(resolve(context.cwd, first));
  if (isImage) {
    return {
      path: resolve(context.cwd, first),
      name: first,
      other: second === undefined ? undefined : resolve(context.cwd, second),
    };
  }
  const { lab, rest } = labFrom(input, context);
  const seats = rest.length === 0 ? [] : seatsFrom(lab, rest);
  if (seats.length !== 1) {
    throw new DiskError('bad-argument', 'Which seat? diff looks at one', {
      detail: {
        fix: `write for example: ${context.program} diff ${lab.spec.file} ${[...lab.seats.keys()][0]}`,
      },
    });
  }
  const { path, encryption } = lab.seats.get(seats[0])!.disk;
  return { path, encryption, name: seats[0], lab };
}

const marks = { added: '+', removed: '-', changed: '~' } as const;

function describe(diff: ImageDiff, context: CliContext): void {
  const c = colours(context);
  if (diff.before !== diff.after)
    say(context, `the disk had ${humanSize(diff.before)} and has ${humanSize(diff.after)}`);
  const totals = { added: 0, removed: 0, changed: 0 };
  let bytes = 0;
  for (const volume of diff.volumes) {
    say(context, `${c.bold(nameOf(volume))}${amount(volume)}`);
    for (const note of volume.notes) say(context, c.dim(`  (${note})`));
    for (const change of volume.files ?? []) {
      totals[change.change] += 1;
      say(context, `  ${marks[change.change]} ${withoutControls(change.path)}${sizes(change)}`);
    }
    for (const { length } of volume.ranges ?? []) bytes += length;
  }
  const { added, removed, changed } = totals;
  say(
    context,
    `${count(added, 'file')} added, ${removed} removed, ${changed} changed; ${humanSize(bytes)} changed elsewhere`,
  );
}

function nameOf({ partition, logical, fileSystem, label, length, offset, notes }: VolumeDiff): string {
  const kind = fileSystem === undefined ? '' : ` ${fileSystem}${label ? ` "${withoutControls(label)}"` : ''}`;
  if (partition !== undefined)
    return `partition ${partition}:${kind} ${humanSize(length)} at ${humanSize(offset)}`;
  if (logical !== undefined)
    return `logical volume ${withoutControls(logical)}:${kind} ${humanSize(length)} at ${humanSize(offset)}`;
  return fileSystem !== undefined || notes.length === 0
    ? `the disk:${kind} ${humanSize(length)}`
    : 'the disk';
}

function amount({ files, ranges = [] }: VolumeDiff): string {
  if (files) return files.length === 0 ? ', no file changed' : '';
  if (ranges.length === 0) return ', unchanged';
  const bytes = ranges.reduce((sum, { length }) => sum + length, 0);
  return `, ${humanSize(bytes)} changed in ${count(ranges.length, 'place')}`;
}

function sizes({ change, before, after, what, kind }: FileChange): string {
  if (kind === 'directory') return change === 'changed' ? `/  (${what.join(', ')})` : '/';
  if (change !== 'changed') return `  ${humanSize(before ?? after ?? 0)}`;
  const grown = before === after ? humanSize(after!) : `${humanSize(before!)} -> ${humanSize(after!)}`;
  return `  ${grown}  (${what.join(', ')})`;
}
