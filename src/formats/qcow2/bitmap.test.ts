import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { have, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { openImage } from '../../image/open.ts';
import { changeBitmap, listBitmaps, readBitmap } from '../../operations/bitmap.ts';
import { applySnapshot, createSnapshot } from '../../operations/snapshot.ts';
import { registerZlibCodec } from '../../platform/zlib-codec.ts';
import { openFileStore } from '../../storage/file.ts';

registerZlibCodec();

const sector = 512;

async function open(path: string, writable = true) {
  return openImage(await openFileStore(path, { writable }), { format: 'qcow2', writable });
}

/** What qemu-nbd hands out of a bitmap: its dirty stretches. */
async function dirtyByQemu(folder: TempDir, path: string, name: string): Promise<[number, number][]> {
  const socket = folder.file(`nbd-${Math.random().toString(36).slice(2)}.sock`);
  const server: ChildProcess = spawn('qemu-nbd', ['-r', '-f', 'qcow2', '-B', name, '-k', socket, path]);
  let said = '';
  server.stderr?.on('data', (piece) => {
    said += piece;
  });
  const ended = new Promise((resolve) => server.on('close', resolve));
  try {
    for (let i = 0; i < 500 && !existsSync(socket) && server.exitCode === null; i++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const uri = `nbd+unix:///?socket=${socket}`;
    const map = await mustRun('nbdinfo', ['--json', `--map=qemu:dirty-bitmap:${name}`, uri]);
    const rows = JSON.parse(map) as { offset: number; length: number; type: number }[];
    return rows.filter(({ type }) => type === 1).map(({ offset, length }) => [offset, offset + length]);
  } catch (error) {
    throw new Error(`${error}\nqemu-nbd: ${said}`);
  } finally {
    server.kill();
    await ended;
  }
}

async function listed(path: string) {
  await using image = await open(path, false);
  return await listBitmaps(image);
}

async function dirtyByUs(path: string, name: string): Promise<[number, number][]> {
  await using image = await open(path, false);
  const { ranges } = await readBitmap(image, name).then((content) => ({ ranges: [...content.ranges()] }));
  return ranges.map(({ offset, length }) => [offset, offset + length]);
}

/** A bitmap as it should be: a flag for each granule. */
class Model {
  bits: boolean[] = [];
  enabled: boolean;
  constructor(
    readonly granularity: number,
    enabled: boolean,
  ) {
    this.enabled = enabled;
  }

  touch(from: number, to: number): void {
    for (let i = Math.floor(from / this.granularity); i < Math.ceil(to / this.granularity); i++)
      this.bits[i] = true;
  }

  ranges(size: number): [number, number][] {
    const found: [number, number][] = [];
    for (let i = 0; i * this.granularity < size; i++) {
      if (!this.bits[i]) continue;
      const [from, to] = [i * this.granularity, Math.min(size, (i + 1) * this.granularity)];
      const last = found.at(-1);
      if (last?.[1] === from) last[1] = to;
      else found.push([from, to]);
    }
    return found;
  }
}

const step = fc.record({
  kind: fc.constantFrom(
    'write',
    'write',
    'write',
    'zero',
    'pack',
    'session',
    'resize',
    'add',
    'remove',
    'clear',
    'toggle',
    'merge',
    'snapshot',
  ),
  by: fc.constantFrom('us', 'us', 'qemu'),
  at: fc.nat(1 << 20),
  length: fc.integer({ min: 1, max: 100 }),
  granularity: fc.constantFrom(512, 4096, 65536, 1 << 20),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

class World {
  readonly bitmaps = new Map<string, Model>();
  next = 0;
  constructor(
    readonly path: string,
    readonly cluster: number,
    public size: number,
  ) {}

  touch(from: number, to: number): void {
    for (const bitmap of this.bitmaps.values())
      if (bitmap.enabled) bitmap.touch(from, Math.min(to, this.size));
  }

  async perform(step: Step): Promise<void> {
    const at = (step.at % (this.size / sector)) * sector;
    const length = Math.min(step.length * sector, this.size - at);
    const names = [...this.bitmaps.keys()];
    const name = names[step.at % Math.max(1, names.length)];
    const bitmap = name === undefined ? undefined : this.bitmaps.get(name);
    const theirs = (...args: string[]) =>
      mustRun('qemu-img', ['bitmap', ...args, this.path, name ?? `b${this.next}`]);
    switch (step.kind) {
      case 'write':
      case 'zero': {
        if (step.by === 'qemu') {
          const command = step.kind === 'zero' ? 'write -z' : 'write';
          await mustRun('qemu-io', ['-f', 'qcow2', '-c', `${command} ${at} ${length}`, this.path]);
        } else {
          await using image = await open(this.path);
          // Zeroes are marked by whole clusters where the rest of them is zero as well, so a cluster is asked for.
          if (step.kind === 'write') await image.write(at, new Uint8Array(length).fill(1));
          else await image.write(at, new Uint8Array(length));
        }
        this.touch(at, at + length);
        return;
      }
      case 'pack': {
        const start = Math.floor(at / this.cluster) * this.cluster;
        const end = Math.min(start + this.cluster, this.size);
        await using image = await open(this.path);
        await image.writePacked(start, new Uint8Array(end - start).fill(2));
        this.touch(start, end);
        return;
      }
      case 'session': {
        // Changes of bitmaps between writes of one opening.
        await using image = await open(this.path);
        await image.write(at, new Uint8Array(length).fill(3));
        this.touch(at, at + length);
        const added = `b${this.next++}`;
        await changeBitmap(image, added, { kind: 'add', granularity: step.granularity });
        this.bitmaps.set(added, new Model(step.granularity, true));
        await image.write(0, new Uint8Array(sector).fill(4));
        this.touch(0, sector);
        return;
      }
      case 'resize': {
        const size = Math.max(sector, step.by === 'qemu' ? at : this.size + length);
        await using image = await open(this.path);
        await image.resize(size);
        this.size = size;
        for (const model of this.bitmaps.values()) model.bits.length = Math.ceil(size / model.granularity);
        return;
      }
      case 'add': {
        const added = `b${this.next++}`;
        const enabled = step.length % 3 !== 0;
        if (step.by === 'qemu') {
          const disable = enabled ? [] : ['--disable'];
          await mustRun('qemu-img', [
            'bitmap',
            '--add',
            ...disable,
            '-g',
            String(step.granularity),
            this.path,
            added,
          ]);
        } else {
          await using image = await open(this.path);
          await changeBitmap(image, added, { kind: 'add', granularity: step.granularity, enabled });
        }
        this.bitmaps.set(added, new Model(step.granularity, enabled));
        return;
      }
      case 'snapshot': {
        await using image = await open(this.path);
        if ((await image.layer.details()).snapshots) {
          await applySnapshot(image, 's');
          this.size = image.size;
          for (const model of this.bitmaps.values())
            model.bits.length = Math.ceil(this.size / model.granularity);
          this.touch(0, this.size);
        } else await createSnapshot(image, 's', 0);
        return;
      }
      default:
    }
    if (bitmap === undefined) return;
    const kind = step.kind === 'toggle' ? (bitmap.enabled ? 'disable' : 'enable') : step.kind;
    const source = names[step.length % names.length]!;
    if (step.by === 'qemu') await theirs(`--${kind}`, ...(kind === 'merge' ? [source] : []));
    else {
      await using image = await open(this.path);
      await changeBitmap(image, name!, kind === 'merge' ? { kind, source } : { kind });
    }
    if (kind === 'remove') this.bitmaps.delete(name!);
    else if (kind === 'clear') bitmap.bits = [];
    else if (kind === 'merge') {
      for (const [from, to] of this.bitmaps.get(source)!.ranges(this.size)) bitmap.touch(from, to);
    } else bitmap.enabled = kind === 'enable';
  }

  async judge(folder: TempDir): Promise<void> {
    const check = await run('qemu-img', ['check', '-f', 'qcow2', this.path]);
    expect(check.code, check.stdout + check.stderr).toBe(0);
    expect(await listed(this.path)).toEqual(
      [...this.bitmaps].map(([name, { granularity, enabled }]) => ({
        name,
        granularity,
        enabled,
        inconsistent: false,
      })),
    );
    for (const [name, model] of this.bitmaps) {
      expect(await dirtyByUs(this.path, name), `ours, ${name}`).toEqual(model.ranges(this.size));
      expect(await dirtyByQemu(folder, this.path, name), `theirs, ${name}`).toEqual(model.ranges(this.size));
    }
  }
}

const programs = ['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'];

describe.skipIf(!programs.every(have))('bitmaps kept by us and by qemu', () => {
  test('say what was written', { timeout: 240_000 }, async () => {
    await using folder = await tempDir();
    let runs = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(512, 4096, 65536),
        fc.boolean(),
        fc.array(step, { minLength: 3, maxLength: 12 }),
        async (cluster, lazy, steps) => {
          const path = folder.file(`image${runs++}.qcow2`);
          const options = `cluster_size=${cluster},lazy_refcounts=${lazy ? 'on' : 'off'}`;
          await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, '3M']);
          const world = new World(path, cluster, 3 << 20);
          await world.perform({ kind: 'add', by: 'us', at: 0, length: 1, granularity: 512 });
          for (const one of steps) await world.perform(one);
          await world.judge(folder);
        },
      ),
      { numRuns: Number(process.env.COWHERD_BITMAP_RUNS ?? 15) },
    );
  });

  test('are in use while they record, and not believed after a crash', async () => {
    await using folder = await tempDir();
    const path = folder.file('image.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', path, '3M']);
    await mustRun('qemu-img', ['bitmap', '--add', path, 'on']);
    await mustRun('qemu-img', ['bitmap', '--add', '--disable', path, 'off']);
    const store = await openFileStore(path, { writable: true });
    const image = await openImage(store, { format: 'qcow2', writable: true, locks: 'none' });
    await image.write(0, new Uint8Array(512).fill(1));
    await image.flush();
    // What the file holds now is what a crash would leave.
    const crashed = folder.file('crashed.qcow2');
    await mustRun('cp', [path, crashed]);
    await image[Symbol.asyncDispose]();
    const flags = async (file: string) => {
      const info = JSON.parse(await mustRun('qemu-img', ['info', '--output=json', file]));
      return info['format-specific'].data.bitmaps.map(({ name, flags: set }: never) => [name, set]);
    };
    expect(await flags(crashed)).toEqual([
      ['on', ['in-use', 'auto']],
      ['off', []],
    ]);
    expect(await flags(path)).toEqual([
      ['on', ['auto']],
      ['off', []],
    ]);
    await using again = await open(crashed);
    await expect(readBitmap(again, 'on')).rejects.toMatchObject({ code: 'in-use', field: 'bitmap' });
    await again.write(4096, new Uint8Array(512).fill(1));
    await changeBitmap(again, 'on', { kind: 'remove' });
    expect((await listBitmaps(again)).map(({ name }) => name)).toEqual(['off']);
    await again.flush();
    expect((await run('qemu-img', ['check', '-U', crashed])).code).toBe(0);
  });
});
