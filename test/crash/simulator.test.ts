import { describe, expect, it } from 'vitest';
import type { FormatDriver, WritableLayer } from '../../src/formats/driver.ts';
import { qcow2 } from '../../src/formats/qcow2/index.ts';
import { raw } from '../../src/formats/raw/index.ts';
import type { ByteStore } from '../../src/storage/store.ts';
import { runCampaign } from './campaign.ts';
import { subjects } from './draw-scenario.ts';
import { judgeFault } from './fault-run.ts';
import { explain, minimize } from './minimize.ts';
import { PowerCut } from './power-cut.ts';
import { Random } from './random.ts';
import { RecordingDisk } from './recording-store.ts';
import { SparseBytes } from './sparse-bytes.ts';

/** All the contents that the one file of a disk may have, as texts of one letter a sector. */
function contents(disk: RecordingDisk, draws = 400): Set<string> {
  const found = new Set<string>();
  for (const { files } of new PowerCut(disk).sample(new Random(1), draws)) {
    const bytes = files[0]!.toBytes();
    let text = '';
    for (let at = 0; at < bytes.length; at += 512) text += String.fromCharCode(bytes[at] || 46);
    found.add(text);
  }
  return found;
}

function letters(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 512);
  for (const [i, letter] of [...text].entries()) bytes.fill(letter.charCodeAt(0), i * 512, (i + 1) * 512);
  return bytes;
}

describe('what a disk may hold after a power cut', () => {
  it('is any subset of the sectors that were not flushed, over all that were', async () => {
    const disk = new RecordingDisk();
    const store = disk.store(disk.addFile('disk', SparseBytes.of(letters('....'))));
    await store.write(0, letters('aa'));
    await store.flush();
    await store.write(512, letters('bbb'));
    const first = ['....', 'a...', '.a..', 'aa..'];
    const second = ['ab..', 'aab.', 'aa.b', 'abb.', 'ab.b', 'aabb', 'abbb'];
    expect([...contents(disk)].sort()).toEqual([...first, ...second].sort());
  });

  it('keeps any order of writes to one sector', async () => {
    const disk = new RecordingDisk();
    const store = disk.store(disk.addFile('disk', SparseBytes.of(letters('.'))));
    for (const letter of 'abc') await store.write(0, letters(letter));
    expect([...contents(disk)].sort()).toEqual(['.', 'a', 'b', 'c']);
  });

  it('flushes only what was done when the flush began', async () => {
    const disk = new RecordingDisk();
    const store = disk.store(disk.addFile('disk', SparseBytes.of(letters('..'))));
    await Promise.all([store.write(0, letters('a')), store.flush()]);
    await store.write(512, letters('b'));
    expect(contents(disk)).toEqual(new Set(['..', 'a.', '.b', 'ab']));
  });

  it('tears zeroes and sizes', async () => {
    const disk = new RecordingDisk();
    const store = disk.store(disk.addFile('disk', SparseBytes.of(letters('abcd'))));
    await store.zero(512, 1024);
    await store.flush();
    await store.resize(4096);
    await store.flush();
    await store.resize(512);
    const found = contents(disk, 2000);
    for (const state of ['abcd', 'a.cd', 'ab.d', 'a..d', 'a..d.', 'a..d....', 'a', 'a..', 'a..d.']) {
      expect(found).toContain(state);
    }
    expect(found.size).toBe(4 + 4 + 3);
  });

  it('grows a file without the bytes that were written past its end', async () => {
    const disk = new RecordingDisk();
    const store = disk.store(disk.addFile('disk', SparseBytes.of(letters('a'))));
    await store.write(512, letters('bb'));
    expect([...contents(disk)].sort()).toEqual(['a', 'a..', 'a.b', 'ab', 'abb']);
  });

  it('takes a part of a sector as a new version of the sector', async () => {
    const disk = new RecordingDisk();
    const store = disk.store(disk.addFile('disk', SparseBytes.of(letters('x'))));
    await store.write(100, new Uint8Array(10).fill(65));
    await store.write(200, new Uint8Array(10).fill(66));
    const seen = new Set<string>();
    for (const { files } of new PowerCut(disk).sample(new Random(1), 100)) {
      const bytes = files[0]!.toBytes();
      seen.add(`${bytes[100]} ${bytes[200]}`);
    }
    expect([...seen].sort()).toEqual(['120 120', '65 120', '65 66']);
  });

  it('takes the short sector at the end of a file as a whole one, where the file has grown since', async () => {
    const disk = new RecordingDisk();
    const store = disk.store(disk.addFile('disk'));
    await store.write(0, new Uint8Array(100).fill(65));
    await store.write(0, letters('B'));
    const seen = new Set<string>();
    for (const { files } of new PowerCut(disk).sample(new Random(1), 200)) {
      const bytes = files[0]!.toBytes();
      seen.add(bytes.length === 0 ? 'empty' : `${bytes.length} ${bytes[50] ?? '-'} ${bytes[150] ?? '-'}`);
    }
    expect([...seen].sort()).toEqual(['100 0 -', '100 65 -', '512 0 0', '512 65 0', '512 66 66', 'empty']);
  });

  it('is made again by its recipe', async () => {
    const disk = new RecordingDisk();
    const store = disk.store(disk.addFile('disk'));
    const random = new Random(5);
    for (let i = 0; i < 40; i += 1) {
      if (random.chance(0.2)) await store.flush();
      else await store.write(random.below(9) * 512, letters('abcdefgh'.slice(random.below(8))));
    }
    const states = [...new PowerCut(disk).sample(random, 200)].map(({ recipe, key }) => ({ recipe, key }));
    expect(states.length).toBeGreaterThan(100);
    const cuts = new PowerCut(disk);
    for (const { recipe, key } of states) expect(key.endsWith(`/${cuts.replay(recipe).key}`)).toBe(true);
  });
});

/** A raw driver with something wrong in its layer. */
function brokenRaw(damage: (layer: WritableLayer) => void): FormatDriver {
  return {
    ...raw,
    async open(source, context) {
      const layer = await raw.open(source, context);
      if (context.writable) damage(layer as WritableLayer);
      return layer;
    },
  };
}

/** A store that promises to be durable and is not. */
function withoutFlush(store: ByteStore): ByteStore {
  return new Proxy(store, {
    get: (target, key) => {
      if (key === 'flush') return async () => undefined;
      const value = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

describe('the judge finds', () => {
  const subject = subjects[0]!;

  it('a flush that does nothing, and tells how to see it', async () => {
    const formats = [
      brokenRaw((layer) => {
        layer.flush = async () => undefined;
      }),
    ];
    const { failure } = await runCampaign({ subject, formats, seed: 1, states: 3000 });
    expect(failure?.verdict).toMatch(/wrong content|guest size/);
    const small = await minimize(failure!, formats, 10_000);
    expect(small.scenario.operations.length).toBeLessThanOrEqual(3);
    const text = await explain(small, formats);
    expect(text).toContain("COWHERD_CRASH_RECIPE='{");
    expect(text).toContain('changes since the last flush');
  });

  it('metadata out of order', async () => {
    // A flush of the image is durable at its end, and nothing is in order before.
    const lying: FormatDriver = {
      ...qcow2,
      async open(source, context) {
        if (!context.writable) return qcow2.open(source, context);
        const layer = (await qcow2.open(withoutFlush(source as ByteStore), context)) as WritableLayer;
        for (const name of ['flush', 'resize', Symbol.asyncDispose] as const) {
          const real = layer[name]!.bind(layer) as (...args: unknown[]) => Promise<void>;
          layer[name] = async (...args: unknown[]) => {
            await real(...args);
            await (source as ByteStore).flush();
          };
        }
        return layer;
      },
    };
    const formats = [lying, raw];
    const plain = subjects.find(({ name }) => name === 'qcow2')!;
    const { failure } = await runCampaign({ subject: plain, formats, seed: 1, states: 3000 });
    expect(failure?.verdict).toMatch(/corrupt/);
  });

  it('an error that does not say what the disk said', async () => {
    const formats = [
      brokenRaw((layer) => {
        layer.flush = async () => {
          throw new TypeError('oops');
        };
      }),
    ];
    const scenario = { format: 'raw', size: 4096, options: {}, operations: [{ kind: 'flush' } as const] };
    const plan = { kind: 'EIO', at: 0, lasts: 'once', partial: 0 } as const;
    expect(await judgeFault(scenario, formats, plan, 0)).toContain('the disk said io, and the image UNTYPED');
  });
});
