import { describe, expect, it, vi } from 'vitest';
import { tempDir } from '../../test/support/programs.ts';
import { openFileStore } from './file.ts';

/** How many syncs fail from now on. */
const fault = vi.hoisted(() => ({ left: 0 }));

vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const failing = (sync: typeof fs.fsync) => (fd: number, done: (error: Error | null) => void) => {
    if (fault.left-- > 0) done(Object.assign(new Error('ENOSPC, fsync'), { code: 'ENOSPC', errno: -28 }));
    else sync(fd, done);
  };
  return { ...fs, fsync: failing(fs.fsync), fdatasync: failing(fs.fdatasync) };
});

describe('a flush that failed', () => {
  it('fails for as long as the file is open: the system tells of lost writes once', async () => {
    await using place = await tempDir();
    const path = place.file('disk');
    {
      await using store = await openFileStore(path, { create: 'exclusive' });
      await store.write(0, new Uint8Array(4096).fill(1));
      await store.flush();
      fault.left = 1;
      await expect(store.flush()).rejects.toMatchObject({ detail: { errno: 'ENOSPC' } });
      await store.write(4096, new Uint8Array(4096).fill(2));
      for (let again = 0; again < 2; again++) {
        await expect(store.flush()).rejects.toMatchObject({ detail: { errno: 'ENOSPC' } });
      }
    }
    await using anew = await openFileStore(path, { writable: true });
    await anew.flush();
    expect(fault.left).toBeLessThanOrEqual(0);
  });
});
