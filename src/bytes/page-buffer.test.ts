import { createRequire } from 'node:module';
import { describe, expect, it, vi } from 'vitest';
import { pageAligned } from './page-buffer.ts';

const koffi = (() => {
  try {
    return createRequire(import.meta.url)('koffi') as { address(of: Uint8Array): bigint };
  } catch {
    return undefined;
  }
})();

describe('pageAligned', () => {
  it('gives zeroed buffers that do not overlap', () => {
    const sizes = [1, 4096, 5000, 1 << 20, 3 << 20, 3 << 20, 5 << 20, 0];
    const buffers = sizes.map(pageAligned);
    buffers.forEach((buffer, index) => {
      expect(buffer.length).toBe(sizes[index]);
      expect(buffer.every((byte) => byte === 0)).toBe(true);
      buffer.fill(index + 1);
    });
    buffers.forEach((buffer, index) => {
      expect(buffer.every((byte) => byte === index + 1)).toBe(true);
    });
  });

  it.skipIf(!koffi)('begins on a page, as the address says', () => {
    for (const size of [1, 4097, 65536, 1 << 20, 7 << 20, 64 << 20]) {
      expect(Number(koffi!.address(pageAligned(size)) % 4096n)).toBe(0);
    }
  });

  it('falls back to an ordinary buffer where no such memory can be had', async () => {
    vi.stubGlobal('WebAssembly', {
      Memory: class {
        constructor() {
          throw new RangeError('could not allocate memory');
        }
      },
    });
    vi.resetModules();
    try {
      const fresh = await import('./page-buffer.ts');
      expect(fresh.pageAligned(100)).toEqual(new Uint8Array(100));
      expect(fresh.pageAligned(10 << 20).length).toBe(10 << 20);
    } finally {
      vi.unstubAllGlobals();
    }
  });
});
