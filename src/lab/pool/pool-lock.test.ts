import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { isRoot, mustRun } from '../../../test/support/programs.ts';
import { byteLocks, locksReachAll } from '../../platform/byte-locks.ts';
import { errnoNumber } from '../../platform/errno.ts';
import { kernel, libc, reloadLibc } from '../../platform/libc.ts';
import { hostIdentity, processPlace, processStart } from '../../platform/process-identity.ts';
import { lockPool, removeStaleLock } from './pool-lock.ts';

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

/** Whether the system has locks here at all that reach all hosts. */
const canLock = (() => {
  const fd = openSync(tmpdir(), 'r');
  try {
    return locksReachAll(fd) && byteLocks() !== undefined;
  } finally {
    closeSync(fd);
  }
})();

/** Whether a folder for temporary files can be made immutable: then nothing in it can be renamed or removed. */
function haveFlag(): boolean {
  const probe = mkdtempSync(join(tmpdir(), 'cowherd-flag-'));
  const set = spawnSync('chattr', ['+i', probe]).status === 0;
  if (set) spawnSync('chattr', ['-i', probe]);
  rmSync(probe, { recursive: true });
  return set;
}

/** What a process of another host (or of this one, where that is said) writes. */
function record({
  how = 'locked',
  host = 'elsewhere',
  boot = '00c0ffee',
  machine = '0badcafe',
} = {}): string {
  return `${process.pid} 1 deadbeef ${boot} ${machine} ${how} ${host}`;
}

async function leave(text: string): Promise<void> {
  (await lockPool(path(), 'x'))[Symbol.dispose]();
  writeFileSync(path(), text);
}

const refusal = {
  code: 'in-use',
  message: expect.stringContaining("of the host 'elsewhere'"),
  detail: { pid: process.pid, host: 'elsewhere', fix: expect.stringMatching(/: rm '.*lab-x\.lock'$/) },
};

it.skipIf(!canLock)(
  "refuses another host's lock while that is locked, and takes it over when it is not",
  async () => {
    await leave(record());
    const holder = openSync(path(), 'r+');
    expect(byteLocks()!.lockAlone(holder)).toBe(0);
    await expect(lockPool(path(), 'x')).rejects.toMatchObject(refusal);
    await removeStaleLock(path());
    expect(readFileSync(path(), 'utf8')).toBe(record());
    closeSync(holder);
    (await lockPool(path(), 'x'))[Symbol.dispose]();
    expect(readdirSync(join(dir, '.cowherd'))).toEqual([]);
  },
);

it.skipIf(!canLock)('is locked for all hosts while it is held', async () => {
  const mine = `${process.pid} ${processStart(process.pid)} ${processPlace()}`;
  const lock = await lockPool(path(), 'x');
  expect(readFileSync(path(), 'utf8')).toMatch(new RegExp(`^${mine} .* locked \\S+$`));
  const asker = openSync(path(), 'r+');
  expect(byteLocks()!.lockAlone(asker)).toBeLessThan(0);
  lock[Symbol.dispose]();
  // Who has waited for that file sees that it is no lock any more.
  expect([byteLocks()!.lockAlone(asker), readFileSync(asker, 'utf8')]).toEqual([0, '']);
  closeSync(asker);
  expect(readdirSync(join(dir, '.cowherd'))).toEqual([]);
});

it.skipIf(!canLock)("is in nobody's way who copies it as an image, and follows to the copy", async () => {
  const lock = await lockPool(path(), 'x');
  const copier = openSync(path(), 'r');
  expect(byteLocks()!.lock(copier, 100)).toBe(0);
  closeSync(copier);
  const moved = `${path()}-moved`;
  copyFileSync(path(), moved);
  rmSync(path());
  lock.follow(moved);
  const asker = openSync(moved, 'r+');
  expect(byteLocks()!.lockAlone(asker)).toBeLessThan(0);
  closeSync(asker);
  lock[Symbol.dispose]();
  expect(readdirSync(join(dir, '.cowherd'))).toEqual([]);
});

it.skipIf(!canLock)('says of a copy that cannot be locked that it is not', async () => {
  const lock = await lockPool(path(), 'x');
  const moved = `${path()}-moved`;
  copyFileSync(path(), moved);
  vi.stubEnv('COWHERD_NO_KOFFI', '1');
  reloadLibc();
  try {
    lock.follow(moved);
  } finally {
    vi.unstubAllEnvs();
    reloadLibc();
  }
  const mine = `${process.pid} ${processStart(process.pid)} ${processPlace()}`;
  expect(readFileSync(moved, 'utf8')).toMatch(new RegExp(`^${mine} .* - \\S+$`));
  lock[Symbol.dispose]();
  expect(existsSync(moved)).toBe(false);
});

it.skipIf(!haveFlag())('makes no failure of finished work where it cannot be given back', async () => {
  for (const reach of [true, false]) {
    if (!reach) vi.stubEnv('COWHERD_NO_KOFFI', '1');
    reloadLibc();
    const lock = await lockPool(path(), 'x');
    await mustRun('chattr', ['+i', join(dir, '.cowherd')]);
    try {
      lock[Symbol.dispose]();
      expect(existsSync(path())).toBe(true);
    } finally {
      await mustRun('chattr', ['-i', join(dir, '.cowherd')]);
      vi.unstubAllEnvs();
      reloadLibc();
    }
    // Nobody has it, though this process lives.
    if (reach) (await lockPool(path(), 'x'))[Symbol.dispose]();
    else rmSync(path());
  }
  expect(readdirSync(join(dir, '.cowherd'))).toEqual([]);
});

it.skipIf(!canLock || !isRoot)('asks of the lock of another user in a container of this host', async () => {
  const { boot } = hostIdentity();
  await leave(record({ how: 'locked', host: 'container', machine: '-', boot }));
  const holder = openSync(path(), 'r+');
  expect(byteLocks()!.lockAlone(holder, 0)).toBe(0);
  chmodSync(join(dir, '.cowherd'), 0o777);
  const ask = () => asUser(() => lockPool(path(), 'x'));
  await expect(ask()).rejects.toMatchObject({
    code: 'in-use',
    detail: { fix: expect.stringMatching(/rm '/) },
  });
  chmodSync(path(), 0o600);
  await expect(ask()).rejects.toMatchObject({ code: 'denied' });
  closeSync(holder);
  chmodSync(path(), 0o644);
  (await ask())[Symbol.dispose]();
});

it.skipIf(!canLock || !isRoot)(
  "believes what is written in another user's lock where the system cannot be asked",
  async () => {
    const { boot } = hostIdentity();
    for (const [errno, isHeld] of [
      ['ENOLCK', false],
      ['EAGAIN', true],
    ] as const) {
      await leave(record({ host: 'container', machine: '-', boot }));
      chmodSync(join(dir, '.cowherd'), 0o777);
      chmodSync(path(), 0o644);
      const { fcntl } = libc()!;
      const asked = vi
        .spyOn(libc()!, 'fcntl')
        .mockImplementation((fd, what, flock) =>
          what === kernel.F_OFD_GETLK ? -errnoNumber(errno) : fcntl(fd, what, flock),
        );
      try {
        const lock = asUser(() => lockPool(path(), 'x'));
        if (isHeld) await expect(lock).rejects.toMatchObject({ code: 'in-use' });
        else (await lock)[Symbol.dispose]();
        expect(asked).toHaveBeenCalled();
      } finally {
        asked.mockRestore();
      }
    }
  },
);

/** Does it as a user who may read, and not write what others have made. */
async function asUser<T>(work: () => Promise<T>): Promise<T> {
  chmodSync(dir, 0o755);
  process.setegid!(65534);
  process.seteuid!(65534);
  try {
    return await work();
  } finally {
    process.seteuid!(0);
    process.setegid!(0);
  }
}

it("refuses another host's lock that nobody can ask about", async () => {
  await leave(record({ how: '-' }));
  await expect(lockPool(path(), 'x')).rejects.toMatchObject(refusal);
  rmSync(path());
  symlinkSync(record({ how: '-' }), path());
  await expect(lockPool(path(), 'x', { waitMs: 1 })).rejects.toMatchObject(refusal);
});

it.each(['locked', '-'])('takes over what this host left when it went down (%s)', async (how) => {
  const { boot, machine, name } = hostIdentity();
  await leave(record({ how, host: name, machine }));
  (await lockPool(path(), 'x'))[Symbol.dispose]();
  // And what a container left that is gone.
  await leave(record({ how, host: 'container', machine: '-', boot }));
  (await lockPool(path(), 'x'))[Symbol.dispose]();
  expect(existsSync(path())).toBe(false);
});

it.skipIf(!canLock)(
  'leaves the lock of a machine that it is a clone of, by name and number, while that works',
  async () => {
    const { machine, name } = hostIdentity();
    await leave(record({ host: name, machine }));
    const holder = openSync(path(), 'r+');
    expect(byteLocks()!.lockAlone(holder)).toBe(0);
    await expect(lockPool(path(), 'x')).rejects.toMatchObject({
      ...refusal,
      message: expect.any(String),
      detail: { host: name },
    });
    closeSync(holder);
    (await lockPool(path(), 'x'))[Symbol.dispose]();
    expect(existsSync(path())).toBe(false);
  },
);

it.skipIf(!canLock)('leaves a dead lock to who is just taking it away', async () => {
  const dead = `${process.pid} 1 ${processPlace()}`;
  await leave(dead);
  const taker = openSync(path(), 'r+');
  expect(byteLocks()!.lockAlone(taker)).toBe(0);
  const asked = lockPool(path(), 'x');
  await sleep(20);
  expect(readFileSync(path(), 'utf8')).toBe(dead);
  rmSync(path());
  closeSync(taker);
  (await asked)[Symbol.dispose]();
  expect(readdirSync(join(dir, '.cowherd'))).toEqual([]);
});

it('does without locks of the system', async () => {
  vi.stubEnv('COWHERD_NO_KOFFI', '1');
  reloadLibc();
  try {
    {
      using _lock = await lockPool(path(), 'x');
      expect(readFileSync(path(), 'utf8')).toMatch(/ - \S+$/);
      await expect(lockPool(path(), 'x')).rejects.toMatchObject({ code: 'in-use' });
    }
    await leave(record());
    await expect(lockPool(path(), 'x')).rejects.toMatchObject(refusal);
    const { machine, name } = hostIdentity();
    writeFileSync(path(), record({ host: name, machine }));
    (await lockPool(path(), 'x'))[Symbol.dispose]();
    expect(readdirSync(join(dir, '.cowherd'))).toEqual([]);
  } finally {
    vi.unstubAllEnvs();
    reloadLibc();
  }
});
