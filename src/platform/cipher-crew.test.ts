import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { builtProgram } from '../../test/support/built-program.ts';
import { type TempDir, tempDir } from '../../test/support/programs.ts';
import { type BulkCipher, registerCipherCrew } from '../crypto/bulk-cipher.ts';
import { type CipherSpec, makeSectorCipher } from '../crypto/sector-cipher.ts';
import { EncryptedStore } from '../storage/encrypted.ts';
import { MemoryStore } from '../storage/memory.ts';
import { ThreadCrew } from './cipher-crew.ts';
import { registerNodePrimitives } from './node-primitives.ts';

registerNodePrimitives();

const mebibyte = 1024 * 1024;
const spec: CipherSpec = { mode: 'xts', iv: 'plain64' };
const key = new Uint8Array(randomBytes(64));

let dir: TempDir;
let crew: ThreadCrew;
let cipher: BulkCipher;

beforeAll(async () => {
  dir = await tempDir();
  await builtProgram(dir.path, 'cow-img', 'cow-img');
  crew = new ThreadCrew(pathToFileURL(join(dir.path, 'bin/cipher-worker.cjs')));
  registerCipherCrew(crew);
  cipher = crew.start(spec, key)!;
  while (!cipher.ready) await new Promise((resolve) => setTimeout(resolve, 5));
});
afterAll(async () => {
  cipher[Symbol.dispose]();
  await dir[Symbol.asyncDispose]();
});

const keyOf = ({ mode }: CipherSpec) => (mode === 'xts' ? key : key.subarray(0, 32));

async function encrypted(sector: number, plain: Uint8Array, how = spec): Promise<Uint8Array> {
  using alone = await makeSectorCipher(how, keyOf(how));
  const bytes = new Uint8Array(plain);
  alone.encrypt(sector, bytes);
  return bytes;
}

const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;

describe('threads that encrypt', () => {
  it('do what one thread does, from one place to another and in place', async () => {
    const [from, to] = [crew.lend(mebibyte)!, crew.lend(mebibyte)!];
    const plain = new Uint8Array(randomBytes(mebibyte));
    from.set(plain);
    await cipher.transform('encrypt', 2 ** 33, from, to);
    expect(same(to, await encrypted(2 ** 33, plain))).toBe(true);
    expect(same(from, plain)).toBe(true);
    await cipher.transform('decrypt', 2 ** 33, to, to);
    expect(same(to, plain)).toBe(true);
    for (const memory of [from, to]) crew.takeBack(memory);
  });

  it.each<CipherSpec>([spec, { mode: 'cbc', iv: 'essiv' }, { ...spec, sectorBytes: 4096 }])(
    'serve a store, whatever memory is handed to it: %j',
    async (how) => {
      const inner = new MemoryStore();
      await using store = await EncryptedStore.over(inner, { spec: how, key: keyOf(how) });
      // So much makes them worth it.
      await store.write(0, new Uint8Array(16 * mebibyte));
      const plain = new Uint8Array(randomBytes(3 * mebibyte - 8192));
      const expected = await encrypted(8, plain, how);
      const lent = crew.lend(plain.length)!;
      lent.set(plain);
      for (const bytes of [plain, lent]) {
        await store.write(0, new Uint8Array(16 * mebibyte));
        await store.write(4096, bytes);
        const written = new Uint8Array(plain.length);
        await inner.read(4096, written);
        expect(same(written, expected)).toBe(true);
        expect(same(bytes, plain)).toBe(true);
      }
      for (const into of [new Uint8Array(plain.length), lent.fill(0)]) {
        await store.read(4096, into);
        expect(same(into, plain)).toBe(true);
      }
      crew.takeBack(lent);
    },
  );

  it('give all memory back when the store beneath fails', async () => {
    const inner = new MemoryStore({ size: 32 * mebibyte });
    await using store = await EncryptedStore.over(inner, { spec, key });
    const into = new Uint8Array(16 * mebibyte);
    await store.read(0, into);
    inner.read = () => Promise.reject(new Error('unreadable'));
    inner.write = () => Promise.reject(new Error('full'));
    // More pieces than there is memory to borrow, again and again.
    for (let round = 0; round < 3; round++) {
      await expect(store.read(0, into)).rejects.toThrow('unreadable');
      await expect(store.write(0, into)).rejects.toThrow('full');
    }
  });

  it('that have ended are noticed, by who waits and by who comes after', async () => {
    const gone = new ThreadCrew(pathToFileURL(join(dir.path, 'nowhere.cjs')));
    const memory = gone.lend(mebibyte)!;
    const nobody = gone.start(spec, key)!;
    await expect(nobody.transform('encrypt', 0, memory, memory)).rejects.toThrow('A cipher thread ended');
    while (!(await nobody.transform('encrypt', 0, memory, memory).catch(String))?.includes('have ended'));
    expect(nobody.ready).toBe(false);
    const inner = new MemoryStore({ size: 32 * mebibyte });
    await using store = await EncryptedStore.over(inner, { spec, key });
    registerCipherCrew(gone);
    try {
      await store.write(0, new Uint8Array(20 * mebibyte));
      await store.write(0, new Uint8Array(2 * mebibyte));
    } finally {
      registerCipherCrew(crew);
    }
    const written = new Uint8Array(2 * mebibyte);
    await inner.read(0, written);
    expect(same(written, await encrypted(0, new Uint8Array(written.length)))).toBe(true);
  });

  it('know no key that was dropped', async () => {
    const memory = crew.lend(mebibyte)!;
    const gone = crew.start(spec, key)!;
    gone[Symbol.dispose]();
    await expect(gone.transform('encrypt', 0, memory, memory)).rejects.toThrow('A cipher thread failed');
    crew.takeBack(memory);
  });

  it('are none where there is no memory for them', async () => {
    const real = WebAssembly.Memory;
    const refusing = vi.fn(function refuse() {
      throw new RangeError('could not allocate memory');
    });
    const poor = new ThreadCrew(new URL('file:///nowhere.cjs'));
    WebAssembly.Memory = refusing as unknown as typeof WebAssembly.Memory;
    try {
      expect(poor.lend(mebibyte)).toBeUndefined();
      expect(poor.start(spec, key)).toBeUndefined();
      // Asked for once.
      expect(refusing).toHaveBeenCalledTimes(1);
    } finally {
      WebAssembly.Memory = real;
    }
  });

  it('lend what there is, and all of it again', () => {
    const lent: Uint8Array[] = [];
    for (let one = crew.lend(2 * mebibyte); one; one = crew.lend(2 * mebibyte)) lent.push(one);
    expect(lent.length).toBeGreaterThan(16);
    expect(new Set(lent.map(({ byteOffset }) => byteOffset)).size).toBe(lent.length);
    for (const index of [5, 0, 3, 4, 1, 2]) crew.takeBack(lent[index]);
    const whole = crew.lend(12 * mebibyte)!;
    expect(whole.byteOffset).toBe(lent[0].byteOffset);
    expect(crew.lend(1)).toBeUndefined();
    for (const one of [whole, ...lent.slice(6)].reverse()) crew.takeBack(one);
    const all = crew.lend(lent.length * 2 * mebibyte)!;
    expect(crew.owns(all)).toBe(true);
    expect(crew.owns(new Uint8Array(1))).toBe(false);
    crew.takeBack(all);
  });
});
