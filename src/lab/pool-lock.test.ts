import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { processPlace, processStart } from '../platform/process-identity.ts';
import { lockPool } from './pool-lock.ts';

let dir: string;
const path = () => join(dir, '.cowherd', 'lab-x.lock');

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'cowherd-lock-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it('admits one at a time and leaves nothing behind', async () => {
  {
    using _lock = await lockPool(path(), 'x');
    await expect(lockPool(path(), 'x')).rejects.toMatchObject({
      code: 'in-use',
      detail: { pid: process.pid },
    });
  }
  using _again = await lockPool(path(), 'x');
  expect(readdirSync(join(dir, '.cowherd'))).toEqual(['lab-x.lock']);
});

it('respects a live process and takes over from a dead one', async () => {
  const child = spawn('sleep', ['60']);
  (await lockPool(path(), 'x'))[Symbol.dispose]();
  writeFileSync(path(), `${child.pid} ${processStart(child.pid!)} ${processPlace()}`);
  await expect(lockPool(path(), 'x')).rejects.toMatchObject({ code: 'in-use' });
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
  using lock = await lockPool(path(), 'x');
  expect(lock.path).toBe(path());
});

it.each(['', 'nonsense', `${process.pid} 1 ${processPlace()}`, `${process.pid} 1 otherboot`])(
  'takes over what no live process left: "%s"',
  async (text) => {
    (await lockPool(path(), 'x'))[Symbol.dispose]();
    writeFileSync(path(), text);
    (await lockPool(path(), 'x'))[Symbol.dispose]();
    expect(existsSync(path())).toBe(false);
  },
);

it('knows a lock that lies in a link, as it is taken where there is no room for a byte', async () => {
  (await lockPool(path(), 'x'))[Symbol.dispose]();
  symlinkSync(`${process.pid} ${processStart(process.pid)} ${processPlace()}`, path());
  await expect(lockPool(path(), 'x')).rejects.toMatchObject({ code: 'in-use', detail: { pid: process.pid } });
  rmSync(path());
  symlinkSync(`${process.pid} 1 ${processPlace()}`, path());
  (await lockPool(path(), 'x'))[Symbol.dispose]();
  expect(readdirSync(join(dir, '.cowherd'))).toEqual([]);
});
