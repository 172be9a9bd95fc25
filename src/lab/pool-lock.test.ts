import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
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

it('is taken while others remove the empty folder, as two that take a lab down do', async () => {
  const folder = join(dir, '.cowherd');
  const pause = 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)';
  const remove = `for (;;) try { require('fs').rmdirSync(${JSON.stringify(folder)}) } catch { ${pause} }`;
  const child = spawn(process.execPath, ['-e', remove], { stdio: 'ignore' });
  try {
    let removed = 0;
    for (const until = performance.now() + 20_000; removed < 30 && performance.now() < until; ) {
      (await lockPool(path(), 'x'))[Symbol.dispose]();
      await sleep(1);
      if (!existsSync(folder)) removed += 1;
    }
    expect(removed).toBeGreaterThan(0);
  } finally {
    child.kill('SIGKILL');
  }
}, 60_000);
