import { expect } from 'vitest';
import type { ChainRun, Image } from '../../src/image/image.ts';

/** Bytes that no other place or time has: a byte in the wrong place is seen. */
export function pattern(length: number, stamp: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = (stamp * 2654435761 + 1) >>> 0;
  for (let index = 0; index < length; index++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    // Never zero, so that bytes that went missing are told from bytes that were written.
    bytes[index] = (state >>> 24) | 1;
  }
  return bytes;
}

export async function readAll(image: Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(image.size).fill(0xaa);
  // In uneven pieces, so that no read is aligned to anything.
  for (let at = 0; at < bytes.length; ) {
    const length = Math.min(bytes.length - at, 300_007);
    await image.read(at, bytes.subarray(at, at + length));
    at += length;
  }
  return bytes;
}

/** Fails with the first place where the bytes differ. */
export function expectSame(actual: Uint8Array, expected: Uint8Array, what = 'content'): void {
  expect(actual.length, `${what}: length`).toBe(expected.length);
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  expect.fail(`${what} differs first at ${at}: ${actual[at]} where ${expected[at]} was due`);
}

export async function allRuns(image: Image, depth: 'chain' | 'layer' = 'chain'): Promise<ChainRun[]> {
  const runs: ChainRun[] = [];
  for await (const page of image.runs({ depth })) runs.push(...page);
  return runs;
}

/** Runs cover the image without gap or overlap, and those that say zero are zero. */
export async function expectTrueRuns(image: Image, content: Uint8Array): Promise<void> {
  let at = 0;
  for (const run of await allRuns(image)) {
    expect(run.offset).toBe(at);
    expect(run.length).toBeGreaterThan(0);
    at += run.length;
    if (run.kind === 'zero' || run.kind === 'hole') {
      const part = content.subarray(run.offset, at);
      const wrong = part.findIndex((byte) => byte !== 0);
      if (wrong >= 0) expect.fail(`a ${run.kind} run holds data at ${run.offset + wrong}`);
    }
    if (run.kind === 'data') {
      const length = Math.min(run.length, Math.max(0, run.source.size - run.at));
      const bytes = new Uint8Array(run.length);
      if (length > 0) await run.source.read(run.at, bytes.subarray(0, length));
      expectSame(bytes, content.subarray(run.offset, at), `data run at ${run.offset}`);
    }
    if (run.kind === 'packed') {
      const unit = await run.unpack();
      expectSame(
        unit.slice(run.skip, run.skip + run.length),
        content.slice(run.offset, at),
        `packed run at ${run.offset}`,
      );
    }
  }
  expect(at).toBe(image.size);
  let own = 0;
  for (const run of await allRuns(image, 'layer')) {
    expect(run.offset).toBe(own);
    own += run.length;
  }
  expect(own).toBe(image.size);
}
