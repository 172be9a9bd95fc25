import { describe, expect, it } from 'vitest';
import { formats } from '../../src/formats/index.ts';
import type { Image } from '../../src/image/image.ts';
import {
  changeBitmap,
  changeBitmaps,
  copyBitmaps,
  listBitmaps,
  readBitmap,
} from '../../src/operations/bitmap.ts';
import { PowerCut } from './power-cut.ts';
import { Random } from './random.ts';
import { beginSession, openChain, type Scenario, type Session, stamped } from './session.ts';
import { SparseStore } from './sparse-store.ts';

const MiB = 1024 * 1024;

const scenario = (): Scenario => ({
  format: 'qcow2',
  size: 4 * MiB,
  options: { cluster_size: 4096 },
  operations: [],
});

/** What every bitmap of the image says, and whether it records. */
async function bitmapsOf(image: Image): Promise<unknown[]> {
  const all = [];
  for (const { name, enabled, inconsistent } of await listBitmaps(image)) {
    all.push({
      name,
      enabled,
      dirty: inconsistent ? 'unknown' : [...(await readBitmap(image, name)).ranges()],
    });
  }
  return all;
}

/** The image's bitmaps in states that a power cut during `work` may leave, each kind of them once. */
async function afterCuts(session: Session, work: () => Promise<void>) {
  const begun = session.disk.now;
  const before = await bitmapsOf(session.image);
  await work();
  const after = await bitmapsOf(session.image);
  const seen = new Set<string>();
  let states = 0;
  for (const state of new PowerCut(session.disk).sample(new Random(7), 600)) {
    if (state.recipe.tick < begun) continue;
    states += 1;
    const file = (name: string) => new SparseStore(state.files[session.disk.fileOf(name)]!, name);
    await using cut = await openChain(session, file, { writable: false });
    seen.add(JSON.stringify(await bitmapsOf(cut)));
  }
  return { before: JSON.stringify(before), after: JSON.stringify(after), seen, states };
}

describe('bitmaps that are changed together', () => {
  it('are there whole or not at all after a power cut: none is empty that is about to be filled', async () => {
    const session = await beginSession(scenario(), formats);
    const { image } = session;
    await changeBitmap(image, 'old', { kind: 'add', granularity: 4096 });
    await image.write(MiB, stamped(1, 300_000));
    await image.flush();
    // What was recorded is stored.
    await readBitmap(image, 'old');
    const { before, after, seen, states } = await afterCuts(session, () =>
      changeBitmaps(image, async (change) => {
        await change('new', { kind: 'add', granularity: 512 });
        await change('new', { kind: 'merge', source: 'old' });
        await change('old', { kind: 'clear' });
        await change('old', { kind: 'merge', source: 'new' });
        await change('new', { kind: 'disable' });
      }),
    );
    expect(states).toBeGreaterThan(20);
    expect(after).toContain('{"name":"new","enabled":false,"dirty":[{"offset":1048576,"length":');
    expect([...seen].sort()).toEqual([before, after].sort());
    await image[Symbol.asyncDispose]();
  });

  it('are all copied, or none', async () => {
    const source = await beginSession(scenario(), formats);
    for (const name of ['a', 'b']) await changeBitmap(source.image, name, { kind: 'add' });
    await source.image.write(2 * MiB, stamped(2, 70_000));
    await readBitmap(source.image, 'a');
    const target = await beginSession(scenario(), formats);
    const { before, after, seen } = await afterCuts(target, () => copyBitmaps(source.image, target.image));
    expect(before).toBe('[]');
    expect(after).toBe(JSON.stringify(await bitmapsOf(source.image)));
    expect([...seen].sort()).toEqual([before, after].sort());
    for (const { image } of [source, target]) await image[Symbol.asyncDispose]();
  });

  it('keep what came before a failure; a copy that cannot be filled is not there', async () => {
    const source = await beginSession(scenario(), formats);
    await changeBitmap(source.image, 'a', { kind: 'add' });
    await source.image.write(0, stamped(3, 70_000));
    await readBitmap(source.image, 'a');
    const target = await beginSession({ ...scenario(), size: 8 * MiB }, formats);
    await expect(copyBitmaps(source.image, target.image)).rejects.toMatchObject({
      detail: { step: 'populate', name: 'a' },
    });
    expect(await listBitmaps(target.image)).toEqual([]);
    await expect(
      changeBitmaps(target.image, async (change) => {
        await change('kept', { kind: 'add' });
        await change('kept', { kind: 'merge', source: 'missing' });
      }),
    ).rejects.toMatchObject({ code: 'not-found' });
    expect((await listBitmaps(target.image)).map(({ name }) => name)).toEqual(['kept']);
    for (const { image } of [source, target]) await image[Symbol.asyncDispose]();
  });

  it('of two images are merged into each other at once: neither waits for ever', async () => {
    const [one, other] = [await beginSession(scenario(), formats), await beginSession(scenario(), formats)];
    for (const [{ image }, at] of [
      [one, 0],
      [other, 2 * MiB],
    ] as const) {
      for (const name of ['a', 'b']) await changeBitmap(image, name, { kind: 'add' });
      await image.write(at, stamped(4, 70_000));
      await readBitmap(image, 'a');
    }
    const pairs = [
      [one.image, other.image],
      [other.image, one.image],
    ] as const;
    await Promise.all(
      pairs.flatMap(([into, from]) =>
        ['a', 'b'].map((name) => changeBitmap(into, name, { kind: 'merge', source: name, from })),
      ),
    );
    for (const { image } of [one, other])
      expect(await bitmapsOf(image)).toMatchObject(
        ['a', 'b'].map((name) => ({ name, dirty: { length: 2 } })),
      );
    // Where the turns are somebody else's, one is told so; the other one is done.
    const ends = await Promise.allSettled(
      pairs.map(([into, from]) =>
        changeBitmaps(into, async (change) => {
          await change('c', { kind: 'add' });
          await change('c', { kind: 'merge', source: 'a', from });
        }),
      ),
    );
    expect(ends.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(ends.find((one) => one.status === 'rejected')?.reason).toMatchObject({ code: 'in-use' });
    for (const { image } of [one, other]) await image[Symbol.asyncDispose]();
  });
});
