import { closeSync, fstatSync, openSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TempDir, tempDir } from '../../test/support/programs.ts';
import { byteLocks, lockedRanges, parseLocks } from './byte-locks.ts';

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-locks-');
});
afterEach(() => folder.remove());

describe('parseLocks', () => {
  it('takes the lines of one file, leaving out those that wait and those of flock', () => {
    const table = [
      '1: OFDLCK ADVISORY  READ -1 fe:00:2147026 203 203',
      '2: OFDLCK ADVISORY  READ -1 fe:00:2147026 100 101',
      '2: -> POSIX  ADVISORY  WRITE 77 fe:00:2147026 102 102',
      '3: FLOCK  ADVISORY  WRITE 12 fe:00:2147026 0 EOF',
      '4: POSIX  ADVISORY  WRITE 13 fe:00:2147026 1000 EOF',
      '5: OFDLCK ADVISORY  READ -1 fe:01:2147026 201 201',
      '6: OFDLCK ADVISORY  READ -1 fe:00:21470260 201 201',
      '',
    ].join('\n');
    expect(parseLocks(table, 'fe:00:2147026')).toEqual([
      { first: 203, last: 203 },
      { first: 100, last: 101 },
      { first: 1000, last: Number.MAX_SAFE_INTEGER },
    ]);
  });
});

describe.skipIf(!byteLocks())('byteLocks', () => {
  it('locks belong to one open of the file, can be shared, and end with it', () => {
    const path = folder.file('file');
    writeFileSync(path, 'x');
    const [one, two] = [openSync(path, 'r'), openSync(path, 'r')];
    const locks = byteLocks()!;
    const inode = fstatSync(one, { bigint: true }).ino;
    expect(locks.lock(one, 100)).toBe(0);
    expect(locks.isLocked(one, 100)).toBe(0);
    expect(locks.isLocked(two, 100)).toBe(1);
    expect(locks.isLocked(two, 101)).toBe(0);
    expect(locks.lock(two, 100)).toBe(0);
    expect(locks.isLocked(one, 100)).toBe(1);
    expect(lockedRanges(two, inode)).toEqual([
      { first: 100, last: 100 },
      { first: 100, last: 100 },
    ]);
    expect(locks.unlock(two, 100)).toBe(0);
    closeSync(openSync(path, 'r'));
    expect(locks.isLocked(two, 100)).toBe(1);
    closeSync(one);
    expect(locks.isLocked(two, 100)).toBe(0);
    closeSync(two);
    expect(locks.lock(two, 100)).toBeLessThan(0);
  });
});
