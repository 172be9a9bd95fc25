import { describe, expect, it } from 'vitest';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { Connection } from '../../src/nbd/connection.ts';
import { Look, ServedDisk } from '../../src/nbd/disk.ts';
import { ThreadBuffers } from '../../src/nbd/page-pool.ts';
import type { ReplyMode } from '../../src/nbd/replies.ts';
import type { Memory, Wire } from '../../src/nbd/wire.ts';
import { systemError } from '../../src/platform/errno.ts';
import { MemoryStore } from '../../src/storage/memory.ts';
import { emptyRequest, encodeRequest } from '../../src/storage/nbd/headers.ts';
import { Command, CommandFlag, HeaderBytes, NbdError } from '../../src/storage/nbd/protocol.ts';

/** What a client sends, and what came back; it takes all of it at once. */
class FakeWire implements Wire {
  readonly sent: number[] = [];
  input: Uint8Array = new Uint8Array(0);

  receive({ bytes }: { readonly bytes: Uint8Array }, at: number, length: number): number {
    const part = this.input.subarray(0, length);
    bytes.set(part, at);
    this.input = this.input.subarray(part.length);
    return part.length;
  }

  send({ bytes }: Memory, at: number, length: number): number {
    for (const byte of bytes.subarray(at, at + length)) this.sent.push(byte);
    return length;
  }

  close(): void {
    // Nobody is at the other end.
  }
}

/** A disk of which nothing is at hand: each byte holds the number of its 16 KiB. Reads end when they are let. */
class SlowDisk implements Partial<ServedDisk> {
  readonly size = 1 << 20;
  readonly readOnly = true;
  readonly isLocal = true;
  readonly reading: (() => void)[] = [];

  look: () => (typeof Look)[keyof typeof Look] = () => Look.later;
  load = async () => false;
  cache = async () => undefined;
  holeAt = async () => 0;
  dataLength = (_offset: number, length: number) => length;

  read(offset: number, into: Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      this.reading.push(() => {
        for (let at = 0; at < into.length; at++) into[at] = contentAt(offset + at);
        resolve();
      });
    });
  }
}

const contentAt = (offset: number) => (offset >> 14) + 1;

function request(cookie: number, offset: number, length: number, flags: number): Uint8Array {
  const bytes = new Uint8Array(HeaderBytes.request);
  const fields = { ...emptyRequest(), command: Command.read, flags, offset, length, cookieLow: cookie };
  encodeRequest(new DataView(bytes.buffer), 0, false, fields);
  return bytes;
}

/** Bytes of each reply's data by cookie: simple replies, or chunks of data. */
function repliesIn(sent: Uint8Array, mode: ReplyMode, lengths: Readonly<Record<number, number>>) {
  const view = new DataView(sent.buffer);
  const found: Record<number, Uint8Array> = {};
  for (let at = 0; at < sent.length; ) {
    const simple = mode === 'simple';
    expect(view.getUint32(at), `what begins at ${at} of the replies`).toBe(simple ? 0x67446698 : 0x668e33ef);
    const cookie = view.getUint32(at + 12);
    const data = at + (simple ? HeaderBytes.simpleReply : HeaderBytes.structuredReply + 8);
    const length = simple ? lengths[cookie] : view.getUint32(at + 16) - 8;
    found[cookie] = sent.slice(data, data + length);
    at = data + length;
  }
  return found;
}

describe('a connection to a server whose large buffers are all in use', () => {
  it.each([
    ['simple', 0],
    ['structured', CommandFlag.df],
  ] as const)('has nothing come between the parts of one reply (%s)', async (mode, flags) => {
    const buffers = new ThreadBuffers();
    for (let taken = 0; taken < 24; taken++) buffers.pool.take(1 << 20);
    const wire = new FakeWire();
    const disk = new SlowDisk();
    const session = { disk: disk as unknown as ServedDisk, mode, contexts: [] };
    const connection = new Connection(buffers, wire, session, { onWork: () => undefined });
    const lengths = { 1: 100_000, 2: 4096, 3: 120_000, 4: 512 };
    const offsets: Record<number, number> = { 1: 0, 2: 500_000, 3: 200_000, 4: 900_000 };
    const cookies = [1, 2, 3, 4] as const;
    wire.input = Uint8Array.from(
      cookies.flatMap((cookie) => [...request(cookie, offsets[cookie], lengths[cookie], flags)]),
    );
    const expected = cookies.reduce((sum, cookie) => sum + lengths[cookie], 0);
    for (let turn = 0; turn < 100 && wire.sent.length < expected; turn++) {
      connection.pump();
      await new Promise(setImmediate);
      // Those that were asked last are ready first.
      disk.reading.shift()?.();
      await new Promise(setImmediate);
      for (const end of disk.reading.splice(0)) end();
      await new Promise(setImmediate);
    }
    const replies = repliesIn(Uint8Array.from(wire.sent), mode, lengths);
    for (const cookie of cookies) {
      const due = Uint8Array.from({ length: lengths[cookie] }, (_, at) => contentAt(offsets[cookie] + at));
      expect(Buffer.compare(replies[cookie], due), `reply ${cookie}`).toBe(0);
    }
  });
});

/** A disk on another host: what was read of it, and from where on it cannot be read. */
class FarDisk implements Partial<ServedDisk> {
  readonly size = 8 << 20;
  readonly readOnly = true;
  readonly isLocal = false;
  bytesRead = 0;
  bad = Infinity;

  look = () => Look.later;

  async read(offset: number, into: Uint8Array): Promise<void> {
    this.bytesRead += into.length;
    if (offset + into.length > this.bad) throw systemError('EIO', 'read from', 'far');
    for (let at = 0; at < into.length; at += 1 << 14) into.fill(contentAt(offset + at), at, at + (1 << 14));
  }

  async cache(offset: number, length: number): Promise<void> {
    await this.read(offset, new Uint8Array(length));
  }
}

describe('a long read in one piece of a disk on another host', () => {
  const length = 5 << 20;

  it('is read once, unless another such reply is kept, and fails as a whole', async () => {
    const buffers = new ThreadBuffers();
    const clients = [0, 1].map(() => {
      const [wire, disk] = [new FakeWire(), new FarDisk()];
      const session = { disk: disk as unknown as ServedDisk, mode: 'simple', contexts: [] } as const;
      const connection = new Connection(buffers, wire, session, { onWork: () => undefined });
      const turns = async () => {
        for (let turn = 0; turn < 20; turn++) {
          connection.pump();
          await new Promise(setImmediate);
        }
      };
      return { wire, disk, connection, turns };
    });
    for (const { wire } of clients) wire.input = request(1, 65536, length, 0);
    await Promise.all(clients.map(({ turns }) => turns()));
    const [one, other] = clients;
    expect([one.disk.bytesRead, other.disk.bytesRead]).toEqual([length, length + length - (1 << 20)]);
    for (const { wire } of clients) {
      const found = repliesIn(Uint8Array.from(wire.sent.splice(0)), 'simple', { 1: length })[1];
      expect(found.every((byte, at) => byte === (contentAt(65536 + at) & 0xff))).toBe(true);
    }
    // The last sector is bad: the client is told, and goes on.
    one.disk.bad = 65536 + length - 512;
    one.wire.input = Uint8Array.from([...request(2, 65536, length, 0), ...request(3, 0, 512, 0)]);
    await one.turns();
    const reply = new DataView(Uint8Array.from(one.wire.sent).buffer);
    expect([reply.getUint32(4), reply.getUint32(12)]).toEqual([NbdError.io, 2]);
    expect([reply.getUint32(20), reply.getUint32(28), reply.byteLength]).toEqual([0, 3, 16 + 16 + 512]);
    // Nobody has the place for it any more.
    expect(buffers.takeLong(512)).toBeDefined();
  });
});

describe('a connection to a server whose buffers are all in use', () => {
  it('is served when one comes free, though others that waited before it have gone or need none any more', async () => {
    const buffers = new ThreadBuffers();
    const taken = Array.from({ length: 24 + 1024 }, () => buffers.pool.take(512)!);
    expect(buffers.pool.take(512)).toBe(undefined);
    const clients = [0, 1, 2, 3].map(() => {
      const [wire, disk] = [new FakeWire(), new SlowDisk()];
      const session = { disk: disk as unknown as ServedDisk, mode: 'simple', contexts: [] } as const;
      const connection = new Connection(buffers, wire, session, { onWork: () => undefined });
      wire.input = request(1, 0, 512, 0);
      connection.pump();
      return { wire, disk, connection };
    });
    const [gone, idle, , last] = clients;
    gone.connection.finish();
    gone.connection.pump();
    // What was asked of this one lies at hand by now.
    idle.disk.look = () => Look.zero;
    Object.assign(idle.disk, { length: 512 });
    // One buffer, for all who wait.
    buffers.pool.give(taken[0]);
    for (let turn = 0; turn < 20; turn++) {
      for (const { connection, disk } of clients) {
        connection.pump();
        for (const end of disk.reading.splice(0)) end();
      }
      await new Promise(setImmediate);
    }
    expect(last.wire.sent.length).toBe(16 + 512);
    expect(clients.map(({ wire }) => wire.sent.length)).toEqual([0, 528, 528, 528]);
  });

  it('is served when one comes free, though another that is told of it cannot take it now', async () => {
    const buffers = new ThreadBuffers();
    const taken = Array.from({ length: 24 + 1024 }, () => buffers.pool.take(512)!);
    const clients = [0, 1].map(() => {
      const [wire, disk] = [new FakeWire(), new SlowDisk()];
      const session = { disk: disk as unknown as ServedDisk, mode: 'simple', contexts: [] } as const;
      const connection = new Connection(buffers, wire, session, { onWork: () => undefined });
      return { wire, disk, connection };
    });
    const [stalled, other] = clients;
    // It takes no replies: that of a refused request is kept, while the read behind it waits for a buffer.
    stalled.wire.send = () => 0;
    stalled.wire.input = Uint8Array.from([...request(1, 1 << 30, 512, 0), ...request(2, 0, 512, 0)]);
    other.wire.input = request(3, 0, 512, 0);
    for (const { connection } of clients) connection.pump();
    buffers.pool.give(taken[0]);
    // As a thread's loop does: who has no work is not asked.
    for (let turn = 0; turn < 20; turn++) {
      for (const { connection, disk } of clients) {
        if (connection.hasWork) connection.pump();
        for (const end of disk.reading.splice(0)) end();
      }
      await new Promise(setImmediate);
    }
    expect(other.wire.sent.length).toBe(16 + 512);
  });
});

/** An image of which the map names, for one of its clusters, a place that cannot be. */
async function damagedImage(format: 'qcow2' | 'qed', cluster = 1): Promise<Image> {
  const store = new MemoryStore();
  await createImage(store, format, 4 << 20);
  {
    await using image = await openImage(store, { format, writable: true });
    await image.write(0, new Uint8Array(4 << 20).fill(7));
  }
  const bytes = store.toBytes();
  const view = new DataView(bytes.buffer);
  const little = format === 'qed';
  const l1 = Number(view.getBigUint64(40, little));
  const l2 = Number(view.getBigUint64(l1, little) & 0xff_ffff_fe00n);
  view.setBigUint64(l2 + 8 * cluster, little ? 513n : 0x8000_0000_0000_0200n, little);
  return openImage(new MemoryStore({ bytes }), { format });
}

describe('a damaged image', () => {
  it.each(['qcow2', 'qed'] as const)('fails the requests that meet it, and no other (%s)', async (format) => {
    await using disk = await ServedDisk.of(await damagedImage(format), { readOnly: true });
    const wire = new FakeWire();
    const session = { disk, mode: 'simple' as const, contexts: [] };
    const connection = new Connection(new ThreadBuffers(), wire, session, { onWork: () => undefined });
    const answers: Record<number, number> = {};
    const ask = async (cookie: number, offset: number, length: number) => {
      wire.input = request(cookie, offset, length, 0);
      for (let turn = 0; turn < 20; turn++) {
        connection.pump();
        await new Promise(setImmediate);
      }
      const reply = new DataView(Uint8Array.from(wire.sent.splice(0)).buffer);
      answers[reply.getUint32(12)] = reply.getUint32(4);
    };
    // The second time, the table is there already.
    for (const first of [0, 4]) {
      await ask(first, 65536, 512);
      await ask(first + 1, 0, 512);
      await ask(first + 2, 0, 300_000);
      await ask(first + 3, 300_000, 512);
    }
    const { io } = NbdError;
    expect(answers).toEqual({ 0: io, 1: 0, 2: io, 3: 0, 4: io, 5: 0, 6: io, 7: 0 });
  });

  it('costs no client its connection where a long read in one piece fails late', async () => {
    await using disk = await ServedDisk.of(await damagedImage('qcow2', 60), { readOnly: true });
    const wire = new FakeWire();
    const session = { disk, mode: 'simple' as const, contexts: [] };
    const connection = new Connection(new ThreadBuffers(), wire, session, { onWork: () => undefined });
    const whole = 4 << 20;
    wire.input = Uint8Array.from([...request(1, 0, whole, 0), ...request(2, whole - 512, 512, 0)]);
    for (let turn = 0; turn < 40; turn++) {
      connection.pump();
      await new Promise(setImmediate);
    }
    expect(connection.closed).toBe(false);
    const replies = Buffer.from(wire.sent);
    const { simpleReply } = HeaderBytes;
    expect(replies.length).toBe(2 * simpleReply + 512);
    const errors = [0, simpleReply].map((at) => [
      replies.readUInt32BE(at + 12),
      replies.readUInt32BE(at + 4),
    ]);
    expect(errors).toEqual([
      [1, NbdError.io],
      [2, 0],
    ]);
  });
});
