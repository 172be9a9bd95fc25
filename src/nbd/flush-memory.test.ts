import { expect, it } from 'vitest';
import { systemError } from '../platform/errno.ts';
import { FlushMemory } from './flush-memory.ts';

it('fails on every thread after it failed on one', async () => {
  const word = FlushMemory.newWord();
  const [one, other] = [new FlushMemory(word, 'disk'), new FlushMemory(word, 'disk')];
  let flushes = 0;
  const works = async () => void flushes++;
  await one.flush(works);
  await other.flush(works);
  const fails = async () => {
    throw systemError('ENOSPC', 'flush', 'disk', { detail: { lost: true } });
  };
  await expect(one.flush(fails)).rejects.toMatchObject({ detail: { errno: 'ENOSPC' } });
  for (const memory of [one, other]) {
    await expect(memory.flush(works)).rejects.toMatchObject({ detail: { errno: 'ENOSPC' } });
  }
  expect(flushes).toBe(2);
});

it('fails where another thread failed while it was under way', async () => {
  const word = FlushMemory.newWord();
  const [one, other] = [new FlushMemory(word, 'disk'), new FlushMemory(word, 'disk')];
  const meanwhile = async () => {
    const lost = systemError('EIO', 'flush', 'disk', { detail: { lost: true } });
    await expect(other.flush(() => Promise.reject(lost))).rejects.toBe(lost);
  };
  await expect(one.flush(meanwhile)).rejects.toMatchObject({ detail: { errno: 'EIO' } });
});

it('goes on after a failure to write a table, which is written again', async () => {
  const memory = new FlushMemory(FlushMemory.newWord(), 'disk');
  const full = systemError('ENOSPC', 'write to', 'disk');
  await expect(memory.flush(() => Promise.reject(full))).rejects.toBe(full);
  await memory.flush(async () => undefined);
});
