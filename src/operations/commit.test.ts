import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../test/support/programs.ts';
import { type Image, openImageFile } from '../node.ts';
import { commitImage } from './commit.ts';
import { changeBacking, copyDifferences } from './rebase.ts';

const missing = !have('qemu-img') || !have('qemu-io');
const guestBytes = '16M';

describe.skipIf(missing)('commit and rebase that are stopped', () => {
  let dir: TempDir;
  const image = (line: string) => mustRun('qemu-img', line.split(' '), { cwd: dir.path });
  const write = (name: string, format: string, ...commands: string[]) =>
    mustRun('qemu-io', ['-f', format, ...commands.flatMap((command) => ['-c', command]), name], {
      cwd: dir.path,
    });
  /** What the guest reads of `name` is what it read of the images before. */
  const unchanged = async (name: string) => {
    await image(`compare -f qcow2 -F raw ${name} content.img`);
    await image(`check -q -f qcow2 ${name}`);
  };

  beforeAll(async () => {
    dir = await tempDir('cowherd-stopped-');
    await image(`create -q -f qcow2 base.qcow2 8M`);
    await write('base.qcow2', 'qcow2', 'write -P 1 0 3M', 'write -P 2 5M 1M');
    await image(`create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2 ${guestBytes}`);
    await write('mid.qcow2', 'qcow2', 'write -P 3 1M 2M', 'write -z 5M 512k', 'write -P 4 9M 1M');
    await image(`create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 ${guestBytes}`);
    await write('top.qcow2', 'qcow2', 'write -P 5 0 2M', 'write -P 6 4M 100k', 'write -P 7 12M 2M');
    await image('convert -O raw top.qcow2 content.img');
    await image('create -q -f raw other.img 6M');
    await write('other.img', 'raw', 'write -P 8 0 6M');
    await mustRun('sh', ['-c', 'mkdir kept && cp *.qcow2 kept'], { cwd: dir.path });
  });

  afterAll(() => dir.remove());

  async function fresh(): Promise<void> {
    await mustRun('sh', ['-c', 'cp kept/* .'], { cwd: dir.path });
  }

  /** Runs `work` with a signal that is raised at the nth report of progress; true: it went through before that. */
  async function stoppedAt(
    turn: number,
    work: (signal: AbortSignal, onProgress: () => void) => Promise<void>,
  ): Promise<boolean> {
    const controller = new AbortController();
    let left = turn;
    try {
      await work(controller.signal, () => {
        left--;
        if (left === 0) controller.abort(new Error('stopped'));
      });
      return true;
    } catch (error) {
      expect(controller.signal.aborted, String(error)).toBe(true);
      return false;
    }
  }

  for (const depth of [1, 2]) {
    it(`leave the overlay's content as it was: commit into the image at depth ${depth}`, async () => {
      let stops = 0;
      for (let turn = 1; turn < 50; turn++) {
        await fresh();
        const done = await stoppedAt(turn, async (signal, onProgress) => {
          await using top = await openImageFile(dir.file('top.qcow2'), {
            writable: true,
            writableBacking: depth,
            signal,
          });
          await commitImage(top, { depth, signal, onProgress });
        });
        if (depth === 1) await unchanged('top.qcow2');
        if (done) break;
        stops++;
        await unchanged('top.qcow2');
        // Once more, to the end.
        await image(depth === 1 ? 'commit -q top.qcow2' : 'commit -q -b base.qcow2 top.qcow2');
        await unchanged(depth === 1 ? 'mid.qcow2' : 'base.qcow2');
      }
      expect(stops).toBeGreaterThan(1);
    });
  }

  it("leave the image's content as it was: rebase to another backing file, and to none", async () => {
    let stops = 0;
    for (const next of ['other.img', undefined]) {
      for (let turn = 1; turn < 50; turn++) {
        await fresh();
        const done = await stoppedAt(turn, async (signal, onProgress) => {
          await using top = await openImageFile(dir.file('top.qcow2'), { writable: true, signal });
          let other: Image | undefined;
          if (next) other = await openImageFile(dir.file(next), { format: 'raw' });
          try {
            await copyDifferences(top, other ? { kind: 'image', image: other } : { kind: 'none' }, {
              signal,
              onProgress,
            });
            await changeBacking(top, next ? { path: next, format: 'raw' } : undefined);
          } finally {
            await other?.[Symbol.asyncDispose]();
          }
        });
        await unchanged('top.qcow2');
        if (done) break;
        stops++;
      }
    }
    expect(stops).toBeGreaterThan(3);
  });

  it('refuse a base that was opened for reading, and a depth that the chain does not have', async () => {
    await fresh();
    await using top = await openImageFile(dir.file('top.qcow2'), { writable: true });
    await expect(commitImage(top, { depth: 1 })).rejects.toMatchObject({ code: 'read-only' });
    await expect(commitImage(top, { depth: 3 })).rejects.toMatchObject({ code: 'bad-argument' });
  });
});
