import { randomFillSync } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { isDiskError } from '../../src/errors.ts';
import type { ByteStore } from '../../src/storage/store.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, tempDir } from '../support/programs.ts';
import { nbdkit, openStore, qemuNbd } from './client-support.ts';

const folder = await tempDir();
afterAll(() => folder.remove());
let sockets = 0;
const socketPath = () => folder.file(`s${sockets++}.sock`);

const size = 3 * 1024 * 1024;

type Step =
  | {
      readonly kind: 'write' | 'read' | 'extents';
      readonly at: number;
      readonly length: number;
      readonly fill: number;
    }
  | { readonly kind: 'zero' | 'keep'; readonly at: number; readonly length: number }
  | { readonly kind: 'flush' };

const place = fc
  .tuple(fc.nat(size - 1), fc.oneof(fc.nat(3000), fc.nat(size)), fc.constantFrom(1, 1, 512, 4096, 65536))
  .map(([at, length, unit]) => {
    const start = at - (at % unit);
    return { at: start, length: Math.min(length - (length % unit), size - start) };
  });
const steps: fc.Arbitrary<Step> = fc.oneof(
  fc
    .tuple(place, fc.integer({ min: 1, max: 255 }), fc.constantFrom('write', 'read', 'extents' as const))
    .map(([where, fill, kind]) => ({ kind, fill, ...where }) as Step),
  fc
    .tuple(place, fc.constantFrom('zero', 'keep' as const))
    .map(([where, kind]) => ({ kind, ...where }) as Step),
  fc.constant<Step>({ kind: 'flush' }),
);

async function apply(store: ByteStore, model: Uint8Array, step: Step): Promise<void> {
  if (step.kind === 'flush') return store.flush();
  const { at, length } = step;
  if (step.kind === 'write') {
    const bytes = new Uint8Array(length).map((_, index) => (step.fill + index * 7) % 256);
    model.set(bytes, at);
    await store.write(at, bytes);
  } else if (step.kind === 'read') {
    const bytes = new Uint8Array(length);
    await store.read(at, bytes);
    expect(Buffer.compare(bytes, model.subarray(at, at + length))).toBe(0);
  } else if (step.kind === 'extents') {
    for (let next = at; next < at + length; ) {
      const extent = await store.extent(next);
      expect(extent.offset).toBe(next);
      expect(extent.length).toBeGreaterThan(0);
      const end = next + extent.length;
      expect(end).toBeLessThanOrEqual(size);
      if (!extent.data) expect(model.subarray(next, end).every((byte) => byte === 0)).toBe(true);
      next = end;
    }
  } else {
    model.fill(0, at, at + length);
    await store.zero(at, length, { punch: step.kind === 'zero' });
  }
}

async function play(store: ByteStore, sequence: readonly Step[], model: Uint8Array): Promise<void> {
  for (const step of sequence) await apply(store, model, step);
  const all = new Uint8Array(size);
  await store.read(0, all);
  expect(Buffer.compare(all, model)).toBe(0);
}

const runs = Number(process.env.COWHERD_LONG === '1' ? 200 : 8);
const sequences = fc.array(steps, { minLength: 5, maxLength: 40 });
const kits: readonly (readonly [string, readonly string[]])[] = [
  ['memory', []],
  ['blocks of 4096', ['--filter=blocksize-policy', 'blocksize-minimum=4096', 'blocksize-error-policy=error']],
  [
    'pieces of 64 KiB',
    [
      '--filter=blocksize-policy',
      'blocksize-minimum=512',
      'blocksize-preferred=4096',
      'blocksize-maximum=65536',
      'blocksize-error-policy=error',
    ],
  ],
  ['split by the server', ['--filter=blocksize', 'minblock=4096', 'maxdata=64k', 'maxlen=64k']],
  ['no zeroes', ['--filter=nozero', 'zeromode=none']],
  ['no extents', ['--filter=noextents']],
  ['no structured replies', ['--no-sr']],
];

describe.skipIf(!have('nbdkit'))('an export of nbdkit', () => {
  for (const [title, args] of kits) {
    it(`does what a disk does (${title})`, async () => {
      const filters = args.filter((arg) => arg.startsWith('-'));
      const settings = args.filter((arg) => !arg.startsWith('-'));
      await fc.assert(
        fc.asyncProperty(sequences, async (sequence) => {
          await using server = await nbdkit(socketPath(), [...filters, 'memory', `${size}`, ...settings]);
          await using store = await openStore(server.socket);
          await play(store, sequence, new Uint8Array(size));
        }),
        { numRuns: Math.ceil(runs / 4) },
      );
    });
  }

  it('is read after the old handshake too', async () => {
    await using server = await nbdkit(socketPath(), ['-o', '-r', 'pattern', `${size}`]);
    await using store = await openStore(server.socket, { writable: false });
    expect(store.size).toBe(size);
    const bytes = new Uint8Array(size);
    await store.read(0, bytes);
    const view = new DataView(bytes.buffer);
    for (let at = 0; at < size; at += 8) {
      if (view.getUint32(at) !== 0 || view.getUint32(at + 4) !== at) expect(at).toBe(-1);
    }
  });

  it('takes replies in any order, over several connections', async () => {
    await using server = await nbdkit(socketPath(), [
      '--filter=delay',
      'memory',
      `${size}`,
      'delay-read=10ms',
      'delay-write=5ms',
    ]);
    await using store = await openStore(server.socket);
    const content = randomFillSync(new Uint8Array(size));
    const unit = 4099;
    const starts = Array.from({ length: Math.floor(size / unit) }, (_, index) => index * unit);
    await Promise.all(starts.map((at) => store.write(at, content.subarray(at, at + unit))));
    await store.flush();
    await Promise.all(
      starts.map(async (at) => {
        const bytes = new Uint8Array(unit);
        await store.read(at, bytes);
        expect(Buffer.compare(bytes, content.subarray(at, at + unit))).toBe(0);
      }),
    );
  });

  it('passes on the errors of the server, and goes on', async () => {
    const trigger = folder.file('trigger');
    await using server = await nbdkit(socketPath(), [
      '--filter=error',
      'memory',
      `${size}`,
      'error=ENOSPC',
      'error-rate=100%',
      `error-file=${trigger}`,
    ]);
    await using store = await openStore(server.socket);
    await store.write(100, new Uint8Array(10).fill(1));
    writeFileSync(trigger, '');
    const refusals = await Promise.allSettled([
      store.write(0, new Uint8Array(4 * 512)),
      store.read(0, new Uint8Array(size)),
      store.zero(0, 512 * 9),
    ]);
    for (const refusal of refusals) {
      expect(refusal).toMatchObject({
        status: 'rejected',
        reason: { code: 'out-of-space', path: store.name },
      });
    }
    rmSync(trigger);
    const bytes = new Uint8Array(10);
    await store.read(100, bytes);
    expect([...bytes]).toEqual(new Array(10).fill(1));
  });

  it('finds holes, and reads them as zeroes', async () => {
    await using server = await nbdkit(socketPath(), [
      'sparse-random',
      '1G',
      'percent=10',
      'seed=7',
      'runlength=1048576',
    ]);
    await using store = await openStore(server.socket, { writable: false });
    let data = 0;
    for (let at = 0; at < store.size; ) {
      const extent = await store.extent(at);
      if (extent.data) data += extent.length;
      at += extent.length;
    }
    expect(data).toBeGreaterThan(store.size / 100);
    expect(data).toBeLessThan(store.size / 3);
    const copy = folder.file('sparse.raw');
    const { openFileStore } = await import('../../src/storage/file.ts');
    {
      await using target = await openFileStore(copy, { create: 'exclusive' });
      await target.resize(store.size);
      const buffer = new Uint8Array(4 * 1024 * 1024);
      for (let at = 0; at < store.size; ) {
        const { length, data: isData } = await store.extent(at);
        const part = buffer.subarray(0, Math.min(length, buffer.length));
        if (isData) {
          await store.read(at, part);
          await target.write(at, part);
        }
        at += isData ? part.length : length;
      }
    }
    if (have('qemu-img')) await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', copy, server.uri]);
    rmSync(copy);
  });

  it('waits for a server that is not there yet, and no longer', async () => {
    const socket = socketPath();
    const begun = Date.now();
    const opening = openStore(socket, { openTimeout: 20_000 });
    await sleep(300);
    await using _server = await nbdkit(socket, ['memory', `${size}`]);
    await using store = await opening;
    expect(store.size).toBe(size);
    expect(Date.now() - begun).toBeGreaterThanOrEqual(300);
    await expect(openStore(socketPath(), { openTimeout: 100 })).rejects.toMatchObject({ code: 'not-found' });
  });
});

describe.skipIf(!have('qemu-nbd') || !have('qemu-img'))('an export of qemu-nbd', () => {
  it.each(['raw', 'qcow2'])('does what a disk does (%s)', async (format) => {
    await fc.assert(
      fc.asyncProperty(sequences, async (sequence) => {
        const image = folder.file('random.img');
        rmSync(image, { force: true });
        await mustRun('qemu-img', ['create', '-q', '-f', format, image, String(size)]);
        {
          await using server = await qemuNbd(socketPath(), ['-e', '8', '-f', format, image]);
          await using store = await openStore(server.socket);
          await play(store, sequence, new Uint8Array(size));
          await store.flush();
        }
        if (format === 'qcow2') await mustRun('qemu-img', ['check', '-q', image]);
      }),
      { numRuns: Math.ceil(runs / 2) },
    );
  });

  it.each(['raw', 'qcow2'])(
    'is found again when it was killed, with all that was answered (%s)',
    async (format) => {
      const image = folder.file(`killed.${format}`);
      await mustRun('qemu-img', ['create', '-q', '-f', format, image, String(size)]);
      const socket = socketPath();
      const start = () => qemuNbd(socket, ['-e', '4', '-f', format, image]);
      let server = await start();
      const content = randomFillSync(new Uint8Array(size));
      {
        await using store = await openStore(socket, { reconnectDelay: 60_000 });
        const unit = 64 * 1024;
        for (let round = 0; round < 3; round++) {
          const from = (round * size) / 3;
          const writing = [];
          for (let at = from; at < from + size / 3; at += unit) {
            writing.push(store.write(at, content.subarray(at, Math.min(at + unit, from + size / 3))));
          }
          await Promise.race(writing);
          await server.kill();
          rmSync(socket, { force: true });
          server = await start();
          await Promise.all(writing);
        }
        await store.flush();
        const all = new Uint8Array(size);
        await store.read(0, all);
        expect(Buffer.compare(all, content)).toBe(0);
      }
      await server[Symbol.asyncDispose]();
      const copy = folder.file('killed.copy');
      await mustRun('qemu-img', ['convert', '-f', format, '-O', 'raw', image, copy]);
      const { readFileSync } = await import('node:fs');
      expect(Buffer.compare(readFileSync(copy), content)).toBe(0);
    },
  );

  it('is lost for good where nobody waits for it', async () => {
    const image = folder.file('gone.raw');
    writeFileSync(image, Buffer.alloc(size));
    const server = await qemuNbd(socketPath(), ['-f', 'raw', image]);
    const store = await openStore(server.socket);
    await store.write(0, new Uint8Array(512));
    await server.kill();
    await expect(store.read(0, new Uint8Array(512))).rejects.toMatchObject({
      code: 'io',
      detail: { errno: 'EIO' },
    });
    await expect(store.flush()).rejects.toSatisfy((error) => isDiskError(error, 'io'));
    await store[Symbol.asyncDispose]();
  });

  it('refuses what an export cannot do', async () => {
    const image = folder.file('fixed.raw');
    writeFileSync(image, Buffer.alloc(size));
    await using server = await qemuNbd(socketPath(), ['-r', '-e', '4', '-x', 'disk', '-f', 'raw', image]);
    const how = { exportName: 'disk' };
    await expect(openStore(server.socket, how)).rejects.toMatchObject({ code: 'denied' });
    await expect(openStore(server.socket, { exportName: 'other' })).rejects.toMatchObject({
      code: 'not-found',
      message: 'Requested export not available',
    });
    await using store = await openStore(server.socket, { ...how, writable: false });
    await expect(store.read(size - 1, new Uint8Array(2))).rejects.toMatchObject({ code: 'out-of-range' });
    await expect(store.extent(size)).rejects.toMatchObject({ code: 'out-of-range' });
    await expect(store.write(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'read-only' });
    await expect(store.resize(size + 1)).rejects.toMatchObject({ message: 'Cannot resize NBD nodes' });
    await expect(store.resize(size - 1)).rejects.toMatchObject({ message: 'Cannot resize NBD nodes' });
  });
});

describe.skipIf(!have('qemu-nbd') || !have('qemu-img'))('new images in exports', () => {
  const cow = async (...args: string[]) => {
    const context = testContext({});
    const code = await cowImg(args, context);
    return { code, out: context.out(), err: context.err() };
  };

  it.each(['raw', 'qcow2', 'vdi', 'vpc', 'vhdx'])('are made by convert and create (%s)', async (format) => {
    const source = folder.file(`source-${format}.raw`);
    const content = randomFillSync(new Uint8Array(size));
    content.fill(0, 65536, 400_000);
    writeFileSync(source, content);
    const place = folder.file(`place-${format}.raw`);
    // What lay there before must not shine through.
    writeFileSync(place, Buffer.alloc(4 * size, 0xa5));
    {
      await using server = await qemuNbd(socketPath(), ['-e', '8', '-f', 'raw', place]);
      expect(await cow('create', '-q', '-f', format, server.uri, '2M')).toMatchObject({ code: 0, err: '' });
      expect(await cow('convert', '-f', 'raw', '-O', format, source, server.uri)).toMatchObject({
        code: 0,
        err: '',
      });
    }
    if (format !== 'raw')
      return void (await mustRun('qemu-img', ['compare', '-f', format, '-F', 'raw', place, source]));
    const { readFileSync } = await import('node:fs');
    expect(Buffer.compare(readFileSync(place).subarray(0, size), content)).toBe(0);
  });
});
