import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { expect, it, vi } from 'vitest';
import { have } from '../../../test/support/programs.ts';
import { isAlive, markOf, waitUntilGone } from './process-mark.ts';

/** Its first thread ends; another lives until the standard input does. */
const headless = `
import ctypes, os, sys, threading
def rest():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=rest).start()
print('begun', flush=True)
ctypes.CDLL(None).pthread_exit(None)
`;

it.skipIf(process.platform !== 'linux' || !have('python3'))(
  'a process whose first thread has ended is gone when the others are',
  async () => {
    const child = spawn('python3', ['-c', headless], { stdio: ['pipe', 'pipe', 'inherit'] });
    const ended = once(child, 'exit');
    await once(child.stdout, 'data');
    const before = markOf(child.pid!)!;
    expect(before).toBeDefined();
    while (!/\) Z /.test(readFileSync(`/proc/${child.pid}/stat`, 'utf8'))) await waitUntilGone(before, 10);
    expect(isAlive(before)).toBe(true);
    expect(await waitUntilGone(before, 50)).toBe(false);
    child.stdin.end();
    expect(await waitUntilGone(before, 60_000)).toBe(true);
    await ended;
    expect(markOf(child.pid!)).toBeUndefined();
  },
);

it('waits no longer where the clock is set back meanwhile', async () => {
  const began = Date.now();
  const clock = vi.spyOn(Date, 'now').mockImplementation(() => began - 3_600_000);
  try {
    expect(await waitUntilGone(markOf(process.pid)!, 50)).toBe(false);
  } finally {
    clock.mockRestore();
  }
});
