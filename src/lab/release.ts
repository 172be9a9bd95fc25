import { existsSync } from 'node:fs';
import { dirname, relative } from 'node:path';
import { DiskError } from '../errors.ts';
import { knownDependents } from '../platform/dependents.ts';
import { probeLock } from '../storage/file.ts';
import { count, describeSeats } from './describe.ts';
import type { Lab } from './lab.ts';
import { backingPathOf, fileIdentity } from './overlay.ts';
import { assertNoMaster } from './own-master.ts';
import type { Runner } from './runner/runner.ts';
import { scanImages } from './scan.ts';
import type { Seat } from './seat.ts';

/*
 * What must be sure before a seat's disk is thrown away: nobody runs it, and no other image stands on it.
 */

/**
 * Throws `in-use` when an image that is not itself among `paths` has one of them as its backing file: looked for in the
 * lab's pool, in the lab file's folder, in the master's, in `folders`, and in the records beside them; and when one of them is a part of
 * a master of the lab.
 */
export async function assertNobodyStandsOn(
  paths: readonly string[],
  lab: Pick<Lab, 'pool' | 'spec' | 'state'>,
  folders: readonly string[] = [],
): Promise<void> {
  const doomed = new Map<string, string>();
  for (const path of paths) {
    const identity = fileIdentity(path);
    if (identity !== undefined) doomed.set(identity, path);
  }
  if (doomed.size === 0) return;
  const { pool, spec } = lab;
  const standing: { readonly path: string; readonly on: string }[] = [];
  const add = (path: string, on: string) => {
    if (!doomed.has(fileIdentity(path) ?? '')) standing.push({ path, on });
  };
  const shallow = [dirname(spec.file), dirname(spec.master.path), ...folders];
  for (const image of scanImages([pool], shallow).images) {
    const backing = backingPathOf(image);
    const on = backing === undefined ? undefined : doomed.get(fileIdentity(backing) ?? '');
    if (on !== undefined) add(image.path, on);
  }
  for (const path of doomed.values()) {
    for (const dependent of await knownDependents(path)) {
      if (!standing.some((one) => one.path === dependent.path)) add(dependent.path, path);
    }
  }
  const [first] = standing;
  if (first === undefined) {
    assertNoMaster(doomed, lab);
    return;
  }
  const more = standing.length > 1 ? ` (and ${standing.length - 1} more like it)` : '';
  throw new DiskError(
    'in-use',
    `'${first.path}' stands on '${first.on}'${more}: without it, it could not be read`,
    {
      path: first.on,
      detail: {
        dependents: standing.length,
        fix: `remove '${relative(process.cwd(), first.path)}', or make it independent: cow-img convert`,
      },
    },
  );
}

/** Whether a guest, or any other program, has the seat's disk open for use. */
export async function isInUse(seat: Seat, runner: Runner): Promise<boolean> {
  const state = await runner.state(seat);
  if (state !== 'off' && state !== 'crashed') return true;
  return isLocked(seat.disk.path);
}

/** Whether any program has QEMU's locks on the file. */
export async function isLocked(path: string): Promise<boolean> {
  return existsSync(path) && (await probeLock(path)).inUse;
}

/** Throws `in-use` where a program has one of the files open. */
export async function assertClosed(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    if (!(await isLocked(path))) continue;
    throw new DiskError('in-use', `'${path}' is open in a program`, {
      path,
      detail: { fix: 'shut down what uses it, and try again' },
    });
  }
}

/** Throws `in-use` when one of the seats runs, naming them and the way out. */
export async function assertNotRunning(seats: readonly Seat[], runner: Runner, verb: string): Promise<void> {
  const running: string[] = [];
  for (const seat of seats) if (await isInUse(seat, runner)) running.push(seat.name);
  if (running.length === 0) return;
  throw new DiskError('in-use', `${count(running.length, 'seat')} in use: ${describeSeats(running)}`, {
    detail: { seats: running.length, fix: `'cowherd ${verb} --stop' stops them first; or shut them down` },
  });
}
