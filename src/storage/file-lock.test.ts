import { spawn } from 'node:child_process';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../../test/support/programs.ts';
import { libc, reloadLibc } from '../platform/libc.ts';
import { onLocksMissing, openFileStore, probeLock } from './file.ts';
import { allPermissions, creationLock, Permission } from './image-lock.ts';

const { consistentRead, write, resize } = Permission;
const writerLock = { hold: consistentRead | write | resize, shared: allPermissions & ~(write | resize) };
const readerLock = { hold: consistentRead, shared: allPermissions & ~(write | resize) };
const nothing = { hold: 0, shared: allPermissions };

let folder: TempDir;
let image: string;
beforeEach(async () => {
  folder = await tempDir('cowherd-lock-');
  image = folder.file('disk.qcow2');
  if (have('qemu-img')) await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1M']);
});
afterEach(() => folder.remove());

/** A qemu-io that has an image open until it is disposed. */
async function holdWithQemu(args: readonly string[]): Promise<AsyncDisposable> {
  const child = spawn('qemu-io', args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()));
  // The prompt comes when the image is open.
  await Promise.race([
    new Promise<void>((resolve) => child.stdout.once('data', () => resolve())),
    ended.then(() => Promise.reject(new Error('qemu-io ended'))),
  ]);
  return {
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await ended;
    },
  };
}

/** The bytes of the image that are locked, as the kernel lists them. */
async function lockedBytes(): Promise<string> {
  const inode = (await mustRun('stat', ['-c', '%i', image])).trim();
  const bytes = new Set<number>();
  for (const line of (await mustRun('cat', ['/proc/locks'])).split('\n')) {
    const words = line.trim().split(/\s+/);
    if (words[5]?.split(':')[2] !== inode) continue;
    for (let byte = Number(words[6]); byte <= Number(words[7]); byte++) bytes.add(byte);
  }
  return [...bytes].sort((one, other) => one - other).join(' ');
}

describe.skipIf(!libc() || !have('qemu-io'))('image locks and qemu', () => {
  it('takes the bytes that qemu takes', async () => {
    for (const [args, lock] of [
      [[image], writerLock],
      [['-r', image], readerLock],
    ] as const) {
      let theirs: string;
      {
        await using _qemu = await holdWithQemu([...args]);
        theirs = await lockedBytes();
      }
      await using store = await openFileStore(image, { writable: lock === writerLock });
      await store.lock(lock);
      expect(await lockedBytes()).toBe(theirs);
      await store.lock(nothing);
      expect(await lockedBytes()).toBe('');
      expect(theirs).not.toBe('');
    }
  });

  it('keeps qemu out while a writer of ours has it, with qemu’s words for a writer of its own', async () => {
    const commands: [string, string[]][] = [
      ['qemu-io', ['-c', 'write 0 512', image]],
      ['qemu-img', ['info', image]],
      ['qemu-img', ['resize', image, '2M']],
      ['qemu-img', ['create', '-f', 'qcow2', image, '1M']],
    ];
    const all = async () => {
      const results = [];
      for (const [command, args] of commands) {
        const { code, stderr } = await run(command, args);
        results.push({ code, stderr });
      }
      return results;
    };
    let theirs: unknown;
    {
      await using _qemu = await holdWithQemu([image]);
      theirs = await all();
    }
    {
      await using store = await openFileStore(image, { writable: true });
      await store.lock(writerLock);
      expect(await all()).toEqual(theirs);
    }
    for (const { code } of theirs as { code: number }[]) expect(code).not.toBe(0);
    // Closing gave them back.
    expect((await run('qemu-io', ['-c', 'write 0 512', image])).code).toBe(0);
  });

  it('lets qemu read and keeps it from writing while a reader of ours has it', async () => {
    await using store = await openFileStore(image);
    await store.lock(readerLock);
    expect((await run('qemu-img', ['info', image])).code).toBe(0);
    const { code, stderr } = await run('qemu-io', ['-c', 'write 0 512', image]);
    expect(code).toBe(1);
    expect(stderr).toContain('Failed to get "write" lock');
  });

  it('is refused by a running qemu with what qemu’s two messages need, and keeps what it had', async () => {
    await using store = await openFileStore(image, { writable: true });
    {
      await using _qemu = await holdWithQemu([image]);
      await expect(store.lock(writerLock)).rejects.toMatchObject({
        code: 'locked',
        path: image,
        detail: { permission: 'write', shared: false },
      });
      await expect(store.lock(readerLock)).rejects.toMatchObject({
        code: 'locked',
        detail: { permission: 'write', shared: true },
      });
      await expect(openFileStore(image, { create: 'truncate' })).rejects.toMatchObject({ code: 'locked' });
      expect(await probeLock(image)).toEqual({
        held: consistentRead | write | resize,
        unshared: write | resize,
        writer: true,
        inUse: true,
      });
    }
    expect((await mustRun('qemu-img', ['info', image])).includes('1 MiB')).toBe(true);
    expect(await lockedBytes()).toBe('');
    expect(await probeLock(image)).toEqual({ held: 0, unshared: 0, writer: false, inUse: false });
    {
      await using _qemu = await holdWithQemu(['-r', image]);
      expect(await probeLock(image)).toMatchObject({ writer: false, inUse: true });
      await store.lock(readerLock);
      await expect(store.lock(writerLock)).rejects.toMatchObject({ code: 'locked' });
    }
    expect(await lockedBytes()).toBe('100 201 203');
    await store.lock(writerLock);
    expect(await lockedBytes()).toBe('100 101 103 201 203');
  });

  it('leaves an image alone that a guest has, and truncates one that is free', async () => {
    {
      await using _qemu = await holdWithQemu(['-r', image]);
      await expect(openFileStore(image, { create: 'truncate' })).rejects.toMatchObject({
        code: 'locked',
        detail: { permission: 'write', shared: false },
      });
    }
    await mustRun('qemu-img', ['check', image]);
    await using store = await openFileStore(image, { create: 'truncate' });
    expect(store.size).toBe(0);
    // Kept, so that nobody begins to write to it before it is filled.
    expect(await lockedBytes()).toBe('101 103 203');
  });
});

describe.skipIf(!libc())('image locks within one process', () => {
  it('counts each open of a file for itself', async () => {
    const path = folder.file('raw');
    await using one = await openFileStore(path, { create: 'exclusive' });
    await using two = await openFileStore(path);
    await one.lock(writerLock);
    await expect(two.lock(readerLock)).rejects.toMatchObject({ code: 'locked' });
    await one[Symbol.asyncDispose]();
    await two.lock(readerLock);
    expect(await probeLock(path)).toMatchObject({ held: consistentRead });
  });
});

describe('image locks without koffi', () => {
  beforeAll(() => {
    process.env.COWHERD_NO_KOFFI = '1';
    reloadLibc();
  });
  afterAll(() => {
    delete process.env.COWHERD_NO_KOFFI;
    reloadLibc();
  });

  it.skipIf(!have('qemu-io'))('still sees that a qemu has the image', async () => {
    await using store = await openFileStore(image, { writable: true });
    {
      await using _qemu = await holdWithQemu([image]);
      await expect(store.lock(writerLock)).rejects.toMatchObject({
        code: 'locked',
        detail: { permission: 'write', shared: false },
      });
      await expect(openFileStore(image, { create: 'truncate' })).rejects.toMatchObject({ code: 'locked' });
      expect(await probeLock(image)).toMatchObject({ writer: true, inUse: true });
    }
    expect(await probeLock(image)).toMatchObject({ writer: false, inUse: false });
    await store.lock(writerLock);
  });

  it.skipIf(!isRoot || !have('qemu-io') || !have('mkfs.btrfs'))(
    'sees it on btrfs too, whose devices differ',
    async () => {
      const disk = folder.file('btrfs');
      await mustRun('truncate', ['-s', '128M', disk]);
      await mustRun('mkfs.btrfs', ['-q', disk]);
      const mount = folder.file('mount');
      await mustRun('mkdir', [mount]);
      await mustRun('mount', ['-o', 'loop', disk, mount]);
      try {
        const path = `${mount}/disk.qcow2`;
        await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
        await using _qemu = await holdWithQemu([path]);
        expect(await probeLock(path)).toMatchObject({ writer: true, inUse: true });
      } finally {
        await mustRun('umount', [mount]);
      }
    },
  );

  it('sees the stores of this process, and says once that others do not', async () => {
    const told: string[] = [];
    onLocksMissing((message) => told.push(message));
    const path = folder.file('raw');
    await using made = await openFileStore(folder.file('made'), { create: 'exclusive', name: 'new' });
    await made.lock(writerLock);
    await using one = await openFileStore(path, { create: 'exclusive' });
    await using two = await openFileStore(path);
    await one.lock(creationLock);
    // Who is about to replace an image, or makes one that nobody knows, has nobody to keep out.
    expect(told).toEqual([]);
    await one.lock(writerLock);
    await expect(two.lock(readerLock)).rejects.toMatchObject({ code: 'locked' });
    expect(await probeLock(path)).toMatchObject({ writer: true, inUse: true });
    await one[Symbol.asyncDispose]();
    await two.lock(readerLock);
    expect(await probeLock(path)).toMatchObject({ writer: false, inUse: true });
    expect(told.length).toBe(1);
    for (const message of told) expect(message).toContain('koffi');
  });
});
