import { lstatSync, readdirSync, readlinkSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type TempDir, tempDir } from '../../../test/support/programs.ts';
import { hostIdentity, processPlace, processStart } from '../../platform/process-identity.ts';
import { lockPool } from './pool-lock.ts';

const told = vi.hoisted(() => ({
  host: '',
  refusal: undefined as { code: string; errno: number } | undefined,
}));

vi.mock('node:fs', async (original) => {
  const real = await original<Record<string, (...args: unknown[]) => unknown>>();
  const writeFileSync = (...args: unknown[]) => {
    real.writeFileSync(...args);
    if (told.refusal) throw Object.assign(new Error(`${told.refusal.code}: refused`), told.refusal);
  };
  return { ...real, writeFileSync };
});
vi.mock('node:os', async (original) => ({ ...(await original<object>()), hostname: () => told.host }));

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-lock-full-');
});
afterEach(async () => {
  told.refusal = undefined;
  await folder.remove();
});
const path = () => join(folder.path, '.cowherd', 'lab-x.lock');

describe.each([
  ['a full disk', { code: 'ENOSPC', errno: -28 }],
  ['a quota that is used up', { code: 'EDQUOT', errno: -122 }],
])('a lock on %s', (_, refusal) => {
  it.each(['here', 'a-host-of-a-very-long-name.example.org'])('of %s needs no room', async (host) => {
    told.host = host;
    told.refusal = refusal;
    {
      using _lock = await lockPool(path(), 'the lab "x"');
      expect(lstatSync(path()).isSymbolicLink()).toBe(true);
      // What ext4 keeps in the link itself.
      expect(readlinkSync(path()).length).toBeLessThan(60);
      await expect(lockPool(path(), 'the lab "x"')).rejects.toMatchObject({
        code: 'in-use',
        detail: { pid: process.pid },
      });
    }
    expect(readdirSync(join(folder.path, '.cowherd'))).toEqual([]);
  });
});

describe('a lock in a link that had no room for the whole name of its host', () => {
  const dead = (machine: string, name: string) =>
    `${process.pid} ${processStart(process.pid)} 00000000 00000000 ${machine} cut ${name}`;

  it('is taken over after a power cut of that host', async () => {
    told.host = 'a-host-of-a-very-long-name';
    (await lockPool(path(), 'x'))[Symbol.dispose]();
    symlinkSync(dead(hostIdentity().machine, 'a-host-of'), path());
    (await lockPool(path(), 'x'))[Symbol.dispose]();
    expect(readdirSync(join(folder.path, '.cowherd'))).toEqual([]);
  });

  it('is left to another host', async () => {
    told.host = 'a-host-of-a-very-long-name';
    (await lockPool(path(), 'x'))[Symbol.dispose]();
    expect(processPlace()).not.toBe('00000000');
    symlinkSync(dead('00000000', 'a-hostess'), path());
    await expect(lockPool(path(), 'x')).rejects.toMatchObject({
      code: 'in-use',
      detail: { pid: process.pid, host: 'a-hostess…' },
    });
  });
});
