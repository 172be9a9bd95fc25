import { expect, it } from 'vitest';
import { copyBytes } from './copy.ts';

it('copies as `set` does, wherever that is', () => {
  const from = new Uint8Array(10_000).map((_, at) => (at * 2654435761) >>> 24);
  for (const length of [0, 1, 2048, 2049, 4096, 10_000]) {
    for (const at of [0, 1, 16, 64, 100]) {
      const expected = new Uint8Array(11_000);
      expected.set(from.subarray(0, length), at);
      const into = new Uint8Array(11_000);
      copyBytes(from.subarray(0, length), into, at);
      expect(Buffer.compare(into, expected)).toBe(0);
      const inner = new Uint8Array(11_016);
      copyBytes(from.subarray(0, length), inner.subarray(16), at);
      expect(Buffer.compare(inner.subarray(16), expected)).toBe(0);
    }
  }
});
