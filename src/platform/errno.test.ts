import { closeSync, openSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../../test/support/programs.ts';
import { asSystemError, errnoName, errnoOf, strerror, systemError } from './errno.ts';
import { errnoTable } from './errno-table.ts';

function thrown(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
}

describe('strerror', () => {
  it.skipIf(process.platform !== 'linux' || !have('python3'))('says what glibc says', async () => {
    const numbers = errnoTable.map(([number]) => number);
    const script = `import os, json; print(json.dumps([os.strerror(n) for n in ${JSON.stringify(numbers)}]))`;
    const theirs: string[] = JSON.parse(await mustRun('python3', ['-c', script]));
    expect(errnoTable.map(([, name]) => strerror(name))).toEqual(theirs);
  });

  it('knows both names of one number, and says so of none', () => {
    expect(strerror('ENOTSUP')).toBe(strerror('EOPNOTSUPP'));
    expect(strerror('EWOULDBLOCK')).toBe('Resource temporarily unavailable');
    expect(strerror('ENOSUCH')).toBe('Unknown error ENOSUCH');
  });
});

describe.skipIf(process.platform !== 'linux')('errnoName', () => {
  it('agrees with Node on the numbers', () => {
    for (const [name, number] of Object.entries(constants.errno)) {
      if (['EWOULDBLOCK', 'EOPNOTSUPP', 'EDEADLOCK'].includes(name)) continue;
      expect([name, errnoName(number), errnoName(-number)]).toEqual([name, name, name]);
    }
    expect(errnoName(-9999)).toBe('E9999');
  });
});

describe('asSystemError', () => {
  it('turns a refusal of the system into a DiskError, with place and name', () => {
    const refusal = thrown(() => openSync('/no/such/file', 'r'));
    expect(errnoOf(refusal)).toBe('ENOENT');
    const error = asSystemError(refusal, 'open', 'disk.img', { offset: 5, detail: { step: 'one' } });
    expect(error).toMatchObject({
      code: 'not-found',
      message: "Could not open 'disk.img': No such file or directory",
      path: 'disk.img',
      offset: 5,
      detail: { errno: 'ENOENT', step: 'one' },
      cause: refusal,
    });
  });

  it('names errors that libuv has no name for', () => {
    const refusal = Object.assign(new Error('Unknown system error -117'), {
      errno: -117,
      code: 'Unknown system error -117',
    });
    expect(asSystemError(refusal, 'read from', 'x')).toMatchObject({
      code: 'io',
      message: "Could not read from 'x': Structure needs cleaning",
    });
  });

  it('passes on what is no refusal of the system', () => {
    const bug = new TypeError('a bug');
    expect(asSystemError(bug, 'open', 'x')).toBe(bug);
    const disk = systemError('EIO', 'open', 'x');
    expect(asSystemError(disk, 'read', 'y')).toBe(disk);
    expect(errnoOf(thrown(() => openSync(1 as unknown as string, 'r')))).toBeUndefined();
  });

  it.skipIf(process.platform !== 'linux')('calls a full device out of space', () => {
    const fd = openSync('/dev/full', 'r+');
    const refusal = thrown(() => writeSync(fd, new Uint8Array(10)));
    closeSync(fd);
    expect(asSystemError(refusal, 'write to', '/dev/full')).toMatchObject({ code: 'out-of-space' });
  });
});
