import { lstatSync, readdirSync, readFileSync, statfsSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type TempDir, tempDir } from '../../test/support/programs.ts';
import { createTarget } from '../node.ts';
import { createAside, newGroup, removeAsides, sweepAsides } from './atomic-file.ts';

/** What is called in place of the system's: by the name of the call. */
const calls = vi.hoisted(() => new Map<string, (...args: string[]) => unknown>());

vi.mock('node:fs', async (original) => {
  const real = await original<Record<string, (...args: unknown[]) => unknown>>();
  const names = ['renameSync', 'linkSync', 'lstatSync', 'statfsSync'];
  const call = (name: string) => {
    return (...args: unknown[]) => ((calls.get(name) as typeof real.x | undefined) ?? real[name])(...args);
  };
  return { ...real, ...Object.fromEntries(names.map((name) => [name, call(name)])) };
});

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-replace-');
});
afterEach(async () => {
  calls.clear();
  await folder.remove();
});

function refuse(code: string, errno: number): never {
  throw Object.assign(new Error(`${code}: refused`), { code, errno });
}
const denied = () => refuse('EACCES', -13);

/** A rename that deletes what is in the way, and then fails. */
function deletingRename(_from: string, to: string): never {
  unlinkSync(to);
  return denied();
}

async function place(): Promise<unknown> {
  const path = folder.file('disk');
  await using aside = createAside(path);
  writeFileSync(aside.path, 'new');
  return await aside.commit().catch((error: unknown) => error);
}

describe('a rename that fails when it has deleted what it was to replace', () => {
  it('is done again, for the place is empty', async () => {
    writeFileSync(folder.file('disk'), 'old');
    calls.set('renameSync', deletingRename);
    expect(await place()).toBeUndefined();
    expect(readFileSync(folder.file('disk'), 'utf8')).toBe('new');
    expect(readdirSync(folder.path)).toEqual(['disk']);
  });

  it('leaves the new file, where the place cannot be had, and says where', async () => {
    const path = folder.file('disk');
    writeFileSync(path, 'old');
    calls.set('renameSync', deletingRename);
    // Only in the place itself: as long as somebody has the old file open, its name cannot be used.
    const { linkSync } = await vi.importActual<typeof import('node:fs')>('node:fs');
    calls.set('linkSync', (from, to) => (to === path ? denied() : linkSync(from, to)));
    const error = await place();
    const [name, ...more] = readdirSync(folder.path);
    const kept = join(folder.path, name);
    expect(more).toEqual([]);
    expect(error).toMatchObject({
      code: 'denied',
      message: `Could not replace '${path}': Permission denied. The old file is gone; the new one is whole: move '${kept}' to '${path}'`,
      detail: { kept },
    });
    removeAsides();
    expect(sweepAsides(folder.path, { now: Date.now() + 1e10 })).toEqual([]);
    expect(name).not.toMatch(/\.part$/);
    expect(readFileSync(kept, 'utf8')).toBe('new');
  });

  it('leaves the new file where nobody can tell what became of the old one', async () => {
    const path = folder.file('disk');
    writeFileSync(path, 'old');
    calls.set('renameSync', () => {
      calls.set('lstatSync', () => refuse('EIO', -5));
      return refuse('EIO', -5);
    });
    const error = (await place()) as Error;
    calls.clear();
    expect(error.message).toContain('Whether the old file is there still cannot be told');
    const contents = readdirSync(folder.path).map((name) => readFileSync(join(folder.path, name), 'utf8'));
    expect(contents.sort()).toEqual(['new', 'old']);
  });
});

it('an old file that is kept meanwhile comes back, and nothing else stays', async () => {
  const path = folder.file('disk');
  writeFileSync(path, 'old');
  {
    await using aside = createAside(path);
    writeFileSync(aside.path, 'new');
    aside.withdraw({ named: true, group: newGroup(), role: 'main' });
    calls.set('renameSync', deletingRename);
    await expect(aside.commit()).rejects.toMatchObject({ code: 'denied' });
    calls.clear();
    aside.takeBack();
  }
  expect(readdirSync(folder.path)).toEqual(['disk']);
  expect(readFileSync(path, 'utf8')).toBe('old');
});

it('a rename that fails and leaves the old file leaves nothing else', async () => {
  writeFileSync(folder.file('disk'), 'old');
  calls.set('renameSync', denied);
  expect(await place()).toMatchObject({
    message: `Could not create '${folder.file('disk')}': Permission denied`,
  });
  expect(readdirSync(folder.path)).toEqual(['disk']);
  expect(readFileSync(folder.file('disk'), 'utf8')).toBe('old');
});

describe.skipIf(process.platform !== 'linux')('the lock of the file that is replaced', () => {
  /** Whether this process has `path` open at the moment of the rename. */
  async function heldAtRename(): Promise<boolean> {
    const path = folder.file('disk');
    writeFileSync(path, 'old');
    const { ino } = lstatSync(path);
    const { renameSync, statSync } = await vi.importActual<typeof import('node:fs')>('node:fs');
    let held: boolean | undefined;
    calls.set('renameSync', (from, to) => {
      held = readdirSync('/proc/self/fd').some((fd) => {
        return statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false })?.ino === ino;
      });
      renameSync(from, to);
    });
    await using target = await createTarget(path);
    await target.store.write(0, Buffer.from('new'));
    await target.commit();
    expect(readFileSync(path, 'utf8')).toBe('new');
    return held!;
  }

  it('holds until the new one has its place', async () => {
    expect(await heldAtRename()).toBe(true);
  });

  it.each([0xff534d42, 0xfe534d42])('is given up before, on SMB (%i)', async (type) => {
    const real = statfsSync(folder.path);
    calls.set('statfsSync', () => ({ ...real, type }));
    expect(await heldAtRename()).toBe(false);
  });
});
