import { dirname } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { isDiskError } from '../../errors.ts';
import { type Lab, openLab } from '../lab.ts';
import { labFileOfPool } from '../masters/lab-files.ts';
import { assertNotSavedIfAsked } from '../seats/saved-memory.ts';
import type { Seat } from '../seats/seat.ts';
import { ownerOf } from '../seats/seat-names.ts';
import { isRemote, runnerOf } from './command.ts';

/**
 * Throws `in-use` where a file that a verb is given by its path is a disk of a seat whose guest's memory was saved. The lab file, which says
 * whom to ask, is looked for in the current folder, above the pool and in it; where it is elsewhere, nobody can tell.
 */
export async function assertFileNotSaved(path: string, context: CliContext): Promise<void> {
  const { lab, seat } = seatAt(path, context.cwd) ?? {};
  if (!lab || !seat) return;
  await using runner = await runnerOf(lab);
  await assertNotSavedIfAsked([seat], runner);
}

/** The seat whose disk a file is. What cannot be looked at around it is no reason to refuse what can. */
function seatAt(path: string, cwd: string): { readonly lab: Lab; readonly seat?: Seat } | undefined {
  try {
    const owner = ownerOf(path);
    if (!owner) return undefined;
    const pool = dirname(owner.place);
    const file = labFileOfPool(owner.lab, [pool], [cwd, dirname(pool), pool]);
    const lab = file === undefined ? undefined : labIfSound(file, cwd);
    return lab && { lab, seat: lab.seats.get(owner.seat) ?? lab.unlisted.get(owner.seat) };
  } catch (error) {
    if (isDiskError(error)) return undefined;
    throw error;
  }
}

/** The same of all seats of the labs that these files describe: for what moves under them. */
export async function assertNoneSaved(labFiles: readonly string[], context: CliContext): Promise<void> {
  for (const file of labFiles) {
    const lab = labIfSound(file, context.cwd);
    if (!lab || isRemote(lab.spec)) continue;
    await using runner = await runnerOf(lab);
    await assertNotSavedIfAsked([...lab.seats.values(), ...lab.unlisted.values()], runner);
  }
}

/** A lab whose records are damaged is mended elsewhere; its disks may be what is to be rescued here. */
function labIfSound(file: string, cwd: string): Lab | undefined {
  try {
    return openLab(file, cwd);
  } catch (error) {
    if (isDiskError(error)) return undefined;
    throw error;
  }
}
