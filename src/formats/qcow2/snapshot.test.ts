import { readFile, writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { have, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { isDiskError } from '../../errors.ts';
import { openImage } from '../../image/open.ts';
import {
  applySnapshot,
  createSnapshot,
  deleteSnapshot,
  listSnapshots,
  openSnapshot,
} from '../../operations/snapshot.ts';
import { registerZlibCodec } from '../../platform/zlib-codec.ts';
import { openFileStore } from '../../storage/file.ts';

registerZlibCodec();

const sector = 512;

const step = fc.record({
  kind: fc.constantFrom(
    'write',
    'write',
    'write',
    'zero',
    'discard',
    'pack',
    'grow',
    'create',
    'create',
    'apply',
    'delete',
  ),
  by: fc.constantFrom('us', 'us', 'qemu'),
  at: fc.nat(1 << 20),
  length: fc.integer({ min: 1, max: 300 }),
  fill: fc.integer({ min: 1, max: 255 }),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const kinds = fc.record({
  cluster: fc.constantFrom(512, 4096, 65536),
  refcountBits: fc.constantFrom(2, 16, 64),
  version: fc.constantFrom('0.10', '1.1', '1.1'),
  lazy: fc.boolean(),
  backing: fc.boolean(),
});
type Kind = typeof kinds extends fc.Arbitrary<infer T> ? T : never;

/** An image, and what its disk and each of its snapshots must hold. */
class World {
  readonly snapshots = new Map<string, Uint8Array>();
  disk: Uint8Array;
  next = 1;

  constructor(
    readonly path: string,
    readonly kind: Kind,
    content: Uint8Array,
  ) {
    this.disk = content.slice();
  }

  open(writable = true) {
    return openFileStore(this.path, { writable }).then((store) =>
      openImage(store, { format: 'qcow2', writable, resolve: (reference) => openFileStore(reference.path) }),
    );
  }

  async perform(step: Step): Promise<void> {
    const at = (step.at % (this.disk.length / sector)) * sector;
    const length = Math.min(step.length * sector, this.disk.length - at);
    const names = [...this.snapshots.keys()];
    const name = names[step.at % Math.max(1, names.length)];
    switch (step.kind) {
      case 'write':
      case 'zero': {
        const fill = step.kind === 'zero' ? 0 : step.fill;
        this.disk.fill(fill, at, at + length);
        const command = fill === 0 ? `write -z ${at} ${length}` : `write -P ${fill} ${at} ${length}`;
        if (step.by === 'qemu') return this.io(command);
        await using image = await this.open();
        if (fill === 0) await image.zero(at, length);
        else await image.write(at, new Uint8Array(length).fill(fill));
        return;
      }
      case 'discard': {
        await using image = await this.open();
        await image.discard(at, length);
        await image.read(0, this.disk);
        return;
      }
      case 'pack': {
        const start = Math.floor(at / this.kind.cluster) * this.kind.cluster;
        const end = Math.min(start + this.kind.cluster, this.disk.length);
        await using image = await this.open();
        this.disk.fill(step.fill, start, end);
        await image.writePacked(start, this.disk.subarray(start, end));
        return;
      }
      case 'grow': {
        if (this.kind.version === '0.10' || this.kind.backing) return;
        const grown = new Uint8Array(this.disk.length + length);
        grown.set(this.disk);
        await using image = await this.open();
        await image.resize(grown.length);
        this.disk = grown;
        return;
      }
      case 'create':
        return this.create(step);
      case 'apply': {
        if (name === undefined) return;
        this.disk = this.snapshots.get(name)!.slice();
        if (step.by === 'qemu') {
          await mustRun('qemu-img', ['snapshot', '-a', name, this.path]);
          return;
        }
        await using image = await this.open();
        await applySnapshot(image, name);
        expect(image.size).toBe(this.disk.length);
        return;
      }
      default: {
        if (name === undefined) return;
        this.snapshots.delete(name);
        if (step.by === 'qemu') {
          await mustRun('qemu-img', ['snapshot', '-d', name, this.path]);
          return;
        }
        await using image = await this.open();
        await deleteSnapshot(image, { name });
      }
    }
  }

  async create({ by }: Step): Promise<void> {
    const name = `s${this.next++}`;
    if (by === 'qemu') {
      if ((await run('qemu-img', ['snapshot', '-c', name, this.path])).code !== 0) return;
    } else {
      await using image = await this.open();
      try {
        await createSnapshot(image, name, 1_700_000_000_123);
      } catch (error) {
        if (isDiskError(error, 'out-of-range') && error.field === 'refcount_bits') return;
        throw error;
      }
    }
    this.snapshots.set(name, this.disk.slice());
  }

  io(command: string): Promise<void> {
    return mustRun('qemu-io', ['-f', 'qcow2', '-c', command, this.path]).then(() => undefined);
  }

  /** qemu-img's check and its reading of disk and snapshots, and ours of the snapshots. */
  async judge(folder: TempDir): Promise<void> {
    // QEMU leaks an L1 table where a refcount cannot grow.
    const check = await run('qemu-img', ['check', '-f', 'qcow2', this.path]);
    expect([0, 3], check.stdout + check.stderr).toContain(check.code);
    const out = folder.file('out.raw');
    await mustRun('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', this.path, out]);
    expect((await readFile(out)).equals(this.disk), 'disk').toBe(true);
    for (const [name, content] of this.snapshots) {
      await using image = await this.open(false);
      await openSnapshot(image, { name });
      const ours = new Uint8Array(image.size);
      await image.read(0, ours);
      const common = Math.min(content.length, ours.length);
      expect(Buffer.compare(ours.subarray(0, common), content.subarray(0, common)), `ours, ${name}`).toBe(0);
      await mustRun('qemu-img', ['convert', '-f', 'qcow2', '-l', name, '-O', 'raw', this.path, out]);
      expect((await readFile(out)).equals(ours), `theirs, ${name}`).toBe(true);
    }
    await using image = await this.open(false);
    expect((await listSnapshots(image)).map((snapshot) => snapshot.name).sort()).toEqual(
      [...this.snapshots.keys()].sort(),
    );
  }
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('snapshots taken by us and by qemu-img', () => {
  test('hold what the disk held', { timeout: 240_000 }, async () => {
    await using folder = await tempDir();
    const size = 200 * 1024;
    const base = new Uint8Array(size).map((_, at) => (at < 100_000 ? at % 251 : 0));
    await writeFile(folder.file('base.raw'), base);
    await fc.assert(
      fc.asyncProperty(kinds, fc.array(step, { minLength: 3, maxLength: 12 }), async (kind, steps) => {
        const v2 = kind.version === '0.10';
        const options = [
          `compat=${kind.version},cluster_size=${kind.cluster}`,
          ...(v2 ? [] : [`refcount_bits=${kind.refcountBits}`, `lazy_refcounts=${kind.lazy ? 'on' : 'off'}`]),
        ].join(',');
        const path = folder.file('image.qcow2');
        const backing = kind.backing ? ['-b', folder.file('base.raw'), '-F', 'raw'] : [];
        await mustRun('qemu-img', [
          'create',
          '-q',
          '-f',
          'qcow2',
          '-o',
          options,
          ...backing,
          path,
          String(size),
        ]);
        const world = new World(path, kind, kind.backing ? base : new Uint8Array(size));
        for (const one of steps) await world.perform(one);
        await world.judge(folder);
      }),
      { numRuns: Number(process.env.COWHERD_SNAPSHOT_RUNS ?? 25) },
    );
  });

  test.skipIf(!have('qemu-system-x86_64'))('that hold a machine’s state keep it', async () => {
    await using folder = await tempDir();
    const path = folder.file('image.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
    // savevm of a machine that was never started: its state lies in the image, past the guest's end.
    const saved = await run(
      'qemu-system-x86_64',
      [
        '-S',
        '-display',
        'none',
        '-nodefaults',
        '-m',
        '2',
        '-monitor',
        'stdio',
        '-drive',
        `file=${path},format=qcow2`,
      ],
      { input: 'savevm state\nquit\n', timeout: 30_000 },
    );
    expect(saved.code, saved.stderr).toBe(0);
    const list = async () => JSON.parse(await mustRun('qemu-img', ['info', '--output=json', path])).snapshots;
    const [state] = await list();
    expect(state['vm-state-size']).toBeGreaterThan(0);
    {
      const store = await openFileStore(path, { writable: true });
      await using image = await openImage(store, { format: 'qcow2', writable: true });
      await createSnapshot(image, 'second', 1_700_000_000_000);
      await image.write(0, new Uint8Array(100_000).fill(1));
      await applySnapshot(image, 'state');
      await deleteSnapshot(image, { name: 'second' });
    }
    expect(await list()).toEqual([state]);
    expect((await run('qemu-img', ['check', path])).code).toBe(0);
    const loaded = await run(
      'qemu-system-x86_64',
      [
        '-S',
        '-display',
        'none',
        '-nodefaults',
        '-m',
        '2',
        '-monitor',
        'stdio',
        '-drive',
        `file=${path},format=qcow2`,
      ],
      { input: 'loadvm state\nquit\n', timeout: 30_000 },
    );
    expect(loaded.stdout + loaded.stderr).not.toMatch(/[Ee]rror/);
  });
});
