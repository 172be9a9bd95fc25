import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { copyFileSparse } from '../src/platform/copy-file.ts';
import { mustRun, tempDir } from './support/programs.ts';

const MiB = 1024 * 1024;

describe('a copy of a file', () => {
  it.each(['to the same file system', 'to another'])(
    '%s ends soon after it is not wanted any more',
    async (where) => {
      await using folder = await tempDir();
      const source = folder.file('source');
      await mustRun('dd', ['if=/dev/zero', `of=${source}`, 'bs=1M', 'count=200', 'status=none']);
      await mustRun('truncate', ['-s', '300M', source]);
      const shared = existsSync('/dev/shm') && where.endsWith('another');
      const place = shared ? mkdtempSync('/dev/shm/cowherd-') : folder.file('.');
      try {
        const interrupted = new AbortController();
        const copy = copyFileSparse(source, join(place, 'part'), { signal: interrupted.signal });
        interrupted.abort();
        await expect(copy).rejects.toMatchObject({ code: 'aborted' });
        expect(statSync(join(place, 'part')).blocks * 512).toBeLessThan(100 * MiB);

        await copyFileSparse(source, join(place, 'whole'));
        await mustRun('cmp', [source, join(place, 'whole')]);
        expect(statSync(join(place, 'whole')).blocks * 512).toBeLessThan(210 * MiB);
      } finally {
        if (shared) rmSync(place, { recursive: true });
      }
    },
  );
});
