import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { emptyRequest, encodeRequest } from '../../src/storage/nbd/headers.ts';
import { encodeInfoRequest, encodeOption } from '../../src/storage/nbd/options.ts';
import { Command, Option } from '../../src/storage/nbd/protocol.ts';
import { have } from '../support/programs.ts';
import { builtServer, nbdsh } from './support.ts';

const mebi = 1024 * 1024;
const clientFlags = Uint8Array.from([0, 0, 0, 3]);

/** A client that does not wait for answers. */
async function rude(path: string): Promise<Socket> {
  for (;;) {
    const socket = connect(path);
    socket.on('error', () => undefined);
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      // The server's queue of new connections is full: on a loaded machine it may be behind by hundreds.
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      await sleep(20);
    }
  }
}

/** One that is in the transmission phase (when the server has got that far) and reads nothing. */
async function deaf(path: string): Promise<Socket> {
  const socket = await rude(path);
  socket.pause();
  socket.write(clientFlags);
  socket.write(encodeOption(Option.structuredReply));
  socket.write(encodeOption(Option.go, encodeInfoRequest({ name: '', infos: [] })));
  return socket;
}

function request(command: number, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(28);
  encodeRequest(new DataView(bytes.buffer), 0, false, { ...emptyRequest(), command, offset, length });
  return bytes;
}

/** Bytes of memory that the process has (or has had at most). */
function memory(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  const line = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(line![1]) * 1024;
}

describe.skipIf(!have('nbdsh'))('hostile clients', () => {
  const server = builtServer();

  async function served(uri: string): Promise<void> {
    const script = `h.connect_uri('${uri}')\nh.pwrite(b'ok', 512)\nprint(h.pread(2, 512))`;
    expect(await nbdsh(script)).toMatchObject({ stdout: "bytearray(b'ok')\n", stderr: '' });
  }

  it.each([
    ['threads', {}],
    ['event loop', { COWHERD_NO_KOFFI: '1' }],
  ])('cost bounded memory, and others are served on (%s)', async (_way, env) => {
    const image = server.file('hostile.raw');
    writeFileSync(image, Buffer.alloc(64 * mebi, 1));
    await using running = await server.start(['-t', '-e', '0', '-f', 'raw', image], { env });
    await served(running.uri);
    const before = memory(running.pid, 'VmRSS');
    const path = running.socket;
    const sockets: Socket[] = [];
    const keep = (socket: Socket) => sockets.push(socket);

    // Garbage, at every stage.
    for (const garbage of ['GET / HTTP/1.1\r\n\r\n', '\0'.repeat(4096), '\xff'.repeat(100_000)]) {
      const socket = await rude(path);
      socket.write(Buffer.from(garbage, 'latin1'));
      keep(socket);
    }
    const confused = await deaf(path);
    confused.write(Buffer.alloc(100_000, 'nonsense'));
    keep(confused);
    // An option of 4 GiB, one with a name that lies, and one that negotiates for ever.
    const option = encodeOption(Option.go, encodeInfoRequest({ name: 'x', infos: [] }));
    const huge = encodeOption(Option.list);
    huge.set([0xff, 0xff, 0xff, 0xff], 12);
    const lying = Uint8Array.from(option);
    lying.set([0xff, 0xff, 0xff, 0xf0], 16);
    for (const words of [huge, lying]) {
      const socket = await rude(path);
      socket.write(clientFlags);
      socket.write(words);
      keep(socket);
    }
    const talker = await rude(path);
    talker.resume();
    talker.write(clientFlags);
    for (let i = 0; i < 2000; i++) talker.write(encodeOption(Option.list));
    keep(talker);
    await served(running.uri);
    // Writes of 4 GiB and of 32 MiB of which nothing comes, and reads that nobody takes.
    for (let i = 0; i < 100; i++) {
      const stalled = await deaf(path);
      stalled.write(request(Command.write, 0, i % 2 === 0 ? 0xffffffff : 32 * mebi));
      stalled.write(Buffer.alloc(1000));
      keep(stalled);
      const reader = await deaf(path);
      for (let j = 0; j < 32; j++) reader.write(request(Command.read, 0, 32 * mebi));
      keep(reader);
    }
    await served(running.uri);
    // Many that say nothing, and many that are in and idle.
    for (let i = 0; i < 1000; i++) keep(i % 4 === 0 ? await deaf(path) : await rude(path));
    await served(running.uri);
    await sleep(500);
    expect(memory(running.pid, 'VmHWM') - before).toBeLessThan(400 * mebi);
    for (const socket of sockets) socket.destroy();
    await served(running.uri);
    expect(await running.stop()).toBe(0);
    expect(
      readFileSync(image)
        .subarray(0, 512)
        .every((byte) => byte === 1),
    ).toBe(true);
  });

  it.each([
    ['threads', {}],
    ['event loop', { COWHERD_NO_KOFFI: '1' }],
  ])('one that leaves right behind its last words is seen to have left (%s)', async (_way, env) => {
    const image = server.file('left.raw');
    writeFileSync(image, Buffer.alloc(mebi, 1));
    await using running = await server.start(['-f', 'raw', image], { env });
    const socket = await deaf(running.socket);
    socket.resume();
    const words = [
      request(Command.write, 0, 70_000),
      Buffer.alloc(70_000, 2),
      request(Command.write, 0, 32 * mebi),
    ];
    socket.end(Buffer.concat(words));
    expect(await running.ended()).toBe(0);
    expect(readFileSync(image).subarray(0, 70_001)).toEqual(
      Buffer.concat([Buffer.alloc(70_000, 2), Buffer.of(1)]),
    );
  });

  it('one that vanishes in the middle of a write leaves none of it, or what came of a large one', async () => {
    const image = server.file('half.raw');
    writeFileSync(image, Buffer.alloc(8 * mebi, 1));
    await using running = await server.start(['-t', '-e', '0', '-f', 'raw', image]);
    const script = (at: number) =>
      `h.connect_uri('${running.uri}')\nprint(bytes(h.pread(${4 * mebi}, ${at})).count(2))`;
    for (const [at, length, sent, left] of [
      [0, mebi, mebi - 1, 0],
      [4 * mebi, 2 * mebi, mebi + 4096, mebi],
    ] as const) {
      const socket = await deaf(running.socket);
      socket.resume();
      socket.end(Buffer.concat([request(Command.write, at, length), Buffer.alloc(sent, 2)]));
      await once(socket, 'close');
      expect((await nbdsh(script(at))).stdout).toBe(`${left}\n`);
    }
    expect(await running.stop()).toBe(0);
  });

  it('a client that has time is told when its time is over', async () => {
    const image = server.file('slow.raw');
    writeFileSync(image, Buffer.alloc(65536, 1));
    await using running = await server.start(['-f', 'raw', image]);
    const silent = await rude(running.socket);
    silent.resume();
    const closed = new Promise((resolve) => silent.on('close', resolve));
    // The only place is taken until then: the next one waits and is served.
    await served(running.uri);
    await closed;
    expect(await running.ended()).toBe(0);
  });
});
