import { expect, it } from 'vitest';
import type { NbdLink } from './link.ts';
import { AllocationFlag } from './protocol.ts';
import { NbdStore } from './store.ts';

const half = 65536;

it('does not believe a block status that was told while a write was under way, once that is done', async () => {
  let written = false;
  let letWrite: () => void = () => undefined;
  const hole = AllocationFlag.hole | AllocationFlag.zero;
  const link = {
    info: { size: 2 * half, flags: 0, structured: true, contextId: 1 },
    writeFlags: 0,
    request: () =>
      new Promise<void>((resolve) => {
        letWrite = () => {
          written = true;
          resolve();
        };
      }),
    blockStatus: async (offset: number) =>
      offset === 0 ? [half, 0, half, written ? 0 : hole] : [half, written ? 0 : hole],
  };
  const store = new NbdStore(link as unknown as NbdLink, { name: 'export', writable: true });
  const writing = store.write(half, new Uint8Array(half).fill(7));
  await new Promise(setImmediate);
  expect(await store.extent(0)).toMatchObject({ length: half, data: true });
  letWrite();
  await writing;
  expect(await store.extent(half)).toMatchObject({ data: true });
});
