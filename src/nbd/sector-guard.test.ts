import { readFile } from 'node:fs/promises';
import { Worker } from 'node:worker_threads';
import { transform } from 'esbuild';
import { describe, expect, it } from 'vitest';
import { SectorGuard } from './sector-guard.ts';

const stripe = 64 * 1024;

describe('SectorGuard', () => {
  it('lets many read a stripe, or one write it', () => {
    const guard = new SectorGuard();
    expect(guard.tryHold(0, 512, false)).toBe(true);
    expect(guard.tryHold(1000, 100, false)).toBe(true);
    expect(guard.tryHold(512, 1, true)).toBe(false);
    guard.release(0, 512, false);
    expect(guard.tryHold(512, 1, true)).toBe(false);
    guard.release(1000, 100, false);
    expect(guard.tryHold(512, 1, true)).toBe(true);
    expect(guard.tryHold(0, 512, false)).toBe(false);
    expect(guard.tryHold(0, 512, true)).toBe(false);
    guard.release(512, 1, true);
    expect(guard.tryHold(0, 512, true)).toBe(true);
  });

  it('holds every stripe of a range, and none after it could not', () => {
    const guard = new SectorGuard();
    expect(guard.tryHold(3 * stripe, 1, true)).toBe(true);
    expect(guard.tryHold(stripe, 2 * stripe, true)).toBe(true);
    guard.release(stripe, 2 * stripe, true);
    expect(guard.tryHold(stripe, 2 * stripe + 1, true)).toBe(false);
    expect(guard.tryHold(0, 3 * stripe, true)).toBe(true);
  });

  it('holds a range that is longer than all its stripes, once', () => {
    const guard = new SectorGuard();
    const long = 2 ** 40;
    expect(guard.tryHold(5 * stripe, long, true)).toBe(true);
    expect(guard.tryHold(0, 1, false)).toBe(false);
    guard.release(5 * stripe, long, true);
    expect(guard.tryHold(5 * stripe, long, false)).toBe(true);
    guard.release(5 * stripe, long, false);
    expect(guard.tryHold(0, long, true)).toBe(true);
  });

  it('waits until a range can be had', async () => {
    const guard = new SectorGuard();
    guard.tryHold(0, 512, true);
    let held = false;
    const waiting = guard.hold(0, stripe * 2, false).then(() => {
      held = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(held).toBe(false);
    guard.release(0, 512, true);
    await waiting;
    expect(guard.tryHold(stripe, 1, true)).toBe(false);
  });

  it('lets nobody begin to read where somebody waits to write', async () => {
    const guard = new SectorGuard();
    guard.tryHold(0, 512, false);
    const writes = guard.hold(0, 512, true);
    expect(guard.tryHold(1024, 512, false)).toBe(false);
    expect(guard.tryHold(stripe, 512, false)).toBe(true);
    guard.release(0, 512, false);
    await writes;
    guard.release(0, 512, true);
    expect(guard.tryHold(1024, 512, false)).toBe(true);
  });

  it('fails for whoever waits for a thread that died, whatever the others give back', async () => {
    const stripes = SectorGuard.newStripes();
    const [dead, alive] = [new SectorGuard(stripes), new SectorGuard(stripes)];
    dead.tryHold(0, 512, true);
    alive.tryHold(stripe, 512, true);
    alive.tryHold(2 * stripe, 512, false);
    const waiting = expect(alive.hold(0, 512, false)).rejects.toMatchObject({ code: 'io' });
    SectorGuard.abandon(stripes);
    await waiting;
    alive.release(stripe, 512, true);
    alive.release(2 * stripe, 512, false);
    for (const at of [0, stripe, 2 * stripe]) {
      for (const exclusive of [true, false]) {
        expect(alive.tryHold(at, 512, exclusive)).toBe(false);
        await expect(alive.hold(at, 512, exclusive)).rejects.toMatchObject({ code: 'io' });
      }
    }
  });

  it('keeps threads apart', async () => {
    const stripes = SectorGuard.newStripes();
    const counted = new Int32Array(new SharedArrayBuffer(4));
    const rounds = 20_000;
    // The two halves of an addition are far enough apart for another thread to come between.
    const code = `
      const { workerData, parentPort } = require('node:worker_threads');
      import(workerData.module).then(async ({ SectorGuard }) => {
        const guard = new SectorGuard(workerData.stripes);
        for (let done = 0; done < ${rounds}; done++) {
          if (!guard.tryHold(70_000, 512, true)) await guard.hold(70_000, 512, true);
          const before = workerData.counted[0];
          for (let wait = 0; wait < 20; wait++) Math.random();
          workerData.counted[0] = before + 1;
          guard.release(70_000, 512, true);
        }
        parentPort.postMessage('done');
      });`;
    const source = await readFile(new URL('sector-guard.ts', import.meta.url), 'utf8');
    const compiled = await transform(source.replace(/^import .*errors.*$/m, ''), { loader: 'ts' });
    const module = `data:text/javascript,${encodeURIComponent(compiled.code)}`;
    const workerData = { stripes, counted, module };
    const threads = [1, 2, 3].map(() => new Worker(code, { eval: true, workerData }));
    await Promise.all(
      threads.map(
        (thread) => new Promise((resolve, reject) => thread.on('message', resolve).on('error', reject)),
      ),
    );
    await Promise.all(threads.map((thread) => thread.terminate()));
    expect(counted[0]).toBe(3 * rounds);
  });
});
