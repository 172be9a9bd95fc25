import { expect, it } from 'vitest';
import { Random } from './random.ts';
import { pageSize, SparseBytes } from './sparse-bytes.ts';

/** Does the same to sparse bytes and to a plain array. */
function change(random: Random, sparse: SparseBytes, plain: Uint8Array): Uint8Array {
  const limit = 6 * pageSize;
  const at = random.below(limit);
  const length = random.between(1, random.pick([10, 600, 3 * pageSize]));
  const grown = new Uint8Array(Math.max(plain.length, at + length));
  grown.set(plain);
  switch (random.below(4)) {
    case 0:
    case 1: {
      const bytes = new Uint8Array(length).fill(random.between(1, 255));
      sparse.write(at, bytes);
      grown.set(bytes, at);
      return grown;
    }
    case 2:
      sparse.zero(at, length, random.chance(0.5));
      grown.fill(0, at, at + length);
      return grown;
    default: {
      sparse.resize(at);
      const resized = new Uint8Array(at);
      resized.set(plain.subarray(0, at));
      return resized;
    }
  }
}

it('holds the bytes that a plain array holds, and so do forks of forks', () => {
  for (let seed = 0; seed < 300; seed += 1) {
    const random = new Random(seed);
    let sparse = new SparseBytes();
    let plain: Uint8Array = new Uint8Array(0);
    const parents: { sparse: SparseBytes; plain: Uint8Array }[] = [];
    for (let step = 0; step < 30; step += 1) {
      plain = change(random, sparse, plain);
      expect(sparse.size).toBe(plain.length);
      expect(Buffer.compare(sparse.toBytes(), plain)).toBe(0);
      if (random.chance(0.15)) {
        parents.push({ sparse, plain });
        sparse = sparse.fork();
      }
    }
    for (const parent of parents) expect(Buffer.compare(parent.sparse.toBytes(), parent.plain)).toBe(0);
  }
});

it('tells holes from data by pages, also through a fork', () => {
  const parent = new SparseBytes();
  parent.write(3 * pageSize, new Uint8Array([1]));
  parent.resize(2 ** 46);
  const child = parent.fork();
  expect(child.nextPage(0)).toBe(3);
  expect(child.nextPage(4)).toBeUndefined();
  child.zero(0, 2 ** 46);
  expect(child.nextPage(0)).toBeUndefined();
  expect(child.isHole(3 * pageSize)).toBe(true);
  expect(parent.isHole(3 * pageSize)).toBe(false);
  expect(child.allocated()).toBe(0);
  child.write(9 * pageSize - 1, new Uint8Array([1, 2]));
  expect(child.allocated()).toBe(2 * pageSize);
});

it('has one fingerprint for equal changes, whatever their order', () => {
  const parent = SparseBytes.of(new Uint8Array(8 * pageSize).fill(7));
  const [one, two, other] = [parent.fork(), parent.fork(), parent.fork()];
  one.write(0, new Uint8Array(512).fill(1));
  one.write(5 * pageSize, new Uint8Array(512).fill(2));
  two.write(5 * pageSize, new Uint8Array(512).fill(2));
  two.write(0, new Uint8Array(512).fill(1));
  other.write(0, new Uint8Array(512).fill(2));
  other.write(5 * pageSize, new Uint8Array(512).fill(1));
  expect(one.fingerprint()).toBe(two.fingerprint());
  expect(one.fingerprint()).not.toBe(other.fingerprint());
});
