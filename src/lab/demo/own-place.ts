import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DiskError } from '../../errors.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { realPath } from '../lab.ts';
import { exampleLab } from './example-lab.ts';

/** The demo's lab file, in the folder that it is played in. */
export const labFile = 'examples/classroom.yaml';

/** Folders of the demo's own: what lies in them it removes when it is run again. */
const ownFolders = ['.demo', '.demo/masters', '.demo/classroom'] as const;

/**
 * Throws `exists` unless all that a demo in the folder would take down is of a demo: its lab file is missing or byte for byte what the demo
 * writes (so that master and pool are those below .demo), and .demo lies in the folder itself.
 */
export function assertDemosOwn(folder: string, program: string): void {
  const fix = `play it in a folder of its own: ${program} demo /tmp/try`;
  const path = join(folder, labFile);
  const text = readIfAny(path);
  if (text !== undefined && text !== exampleLab) {
    throw new DiskError(
      'exists',
      `'${labFile}' is not the demo's: it would take that lab's seats and master down`,
      {
        path,
        detail: {
          fix: `${fix}\n(if it is the demo's file, edited: take the lab down, and move the file away)`,
        },
      },
    );
  }
  for (const own of ownFolders) {
    const place = join(folder, own);
    const real = realPath(place);
    if (real === join(realPath(folder), own)) continue;
    throw new DiskError('exists', `'${own}' leads to '${real}', where the demo removes nothing`, {
      path: place,
      detail: { fix },
    });
  }
}

function readIfAny(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return undefined;
    throw asSystemError(cause, 'read', path);
  }
}
