import { createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TempDir, tempDir } from '../../../test/support/programs.ts';
import { DiskError } from '../../errors.ts';
import { QmpClient, type QmpEvent } from './qmp.ts';

const greeting =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}\r\n';

let folder: TempDir;
let path: string;
let server: Server;
let sockets: Socket[];

beforeEach(async () => {
  folder = await tempDir();
  path = folder.file('qmp');
  sockets = [];
});

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  await folder.remove();
});

type Message = { execute: string; id: number; arguments?: Record<string, unknown> };

/** A peer that greets as told, agrees to capabilities, and leaves the rest to `answer`. */
async function peer(answer: (message: Message, socket: Socket) => void, hello = greeting): Promise<void> {
  server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.write(hello);
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
      for (;;) {
        const end = text.indexOf('\n');
        if (end < 0) return;
        const message = JSON.parse(text.slice(0, end)) as Message;
        text = text.slice(end + 1);
        if (message.execute === 'qmp_capabilities') socket.write(`{"return": {}, "id": ${message.id}}\r\n`);
        else answer(message, socket);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
}

async function failure(promise: Promise<unknown>): Promise<DiskError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(DiskError);
  return error as DiskError;
}

describe('QmpClient', () => {
  it('greets, and matches answers to commands by id, in whatever order they come', async () => {
    const seen: Message[] = [];
    await peer((message, socket) => {
      seen.push(message);
      if (seen.length < 2) return;
      for (const { execute, id } of seen.reverse())
        socket.write(`{"return": "to ${execute}", "id": ${id}}\r\n`);
    });
    await using client = await QmpClient.connect(path);
    expect(client.version).toBe('7.2.22');
    const answers = await Promise.all([client.execute('one'), client.execute('two', { deep: [1] })]);
    expect(answers).toEqual(['to one', 'to two']);
    expect(seen.find(({ execute }) => execute === 'two')?.arguments).toEqual({ deep: [1] });
  });

  it('passes events on, also when a message comes in pieces', async () => {
    await peer((message, socket) => {
      const event = '{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown ü"}}\r\n';
      const bytes = Buffer.from(`${event}{"return": {}, "id": ${message.id}}\n`);
      // Cut within a character.
      const cut = bytes.indexOf(0xc3) + 1;
      socket.write(bytes.subarray(0, cut));
      setTimeout(() => socket.write(bytes.subarray(cut)), 20);
    });
    await using client = await QmpClient.connect(path);
    const events: QmpEvent[] = [];
    const stop = client.onEvent((event) => events.push(event));
    await client.execute('go');
    expect(events).toEqual([{ event: 'SHUTDOWN', data: { guest: true, reason: 'guest-shutdown ü' } }]);
    stop();
    await client.execute('go');
    expect(events).toHaveLength(1);
  });

  it("throws QEMU's own words", async () => {
    await peer(({ execute, id }, socket) => {
      const kind = execute === 'fnord' ? 'CommandNotFound' : 'GenericError';
      socket.write(`{"error": {"class": "${kind}", "desc": "No ${execute}"}, "id": ${id}}\n`);
    });
    await using client = await QmpClient.connect(path);
    expect(await failure(client.execute('fnord'))).toMatchObject({
      code: 'unsupported',
      message: 'No fnord',
    });
    expect(await failure(client.execute('eject'))).toMatchObject({
      code: 'io',
      message: 'No eject',
      detail: { class: 'GenericError' },
    });
  });

  it('gives up in time, and takes a late answer for nobody else', async () => {
    const late: (() => void)[] = [];
    await peer(({ execute, id }, socket) => {
      const answer = () => socket.write(`{"return": "${execute}", "id": ${id}}\n`);
      if (execute === 'slow') late.push(answer);
      else answer();
    });
    await using client = await QmpClient.connect(path);
    expect(await failure(client.execute('slow', {}, { timeoutMs: 30 }))).toMatchObject({
      code: 'io',
      field: 'timeout',
    });
    late[0]();
    expect(await client.execute('quick')).toBe('quick');
  });

  it('stops waiting when told to', async () => {
    await peer(() => undefined);
    await using client = await QmpClient.connect(path);
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 20);
    expect(await failure(client.execute('never', {}, { signal: controller.signal }))).toMatchObject({
      code: 'aborted',
    });
    expect(await failure(client.execute('never', {}, { signal: controller.signal }))).toMatchObject({
      code: 'aborted',
    });
  });

  it('fails what waits, and what comes after, when the peer goes', async () => {
    await peer((_, socket) => socket.destroy());
    await using client = await QmpClient.connect(path);
    expect(await failure(client.execute('quit'))).toMatchObject({ code: 'io', field: 'closed' });
    expect(await failure(client.execute('more'))).toMatchObject({ code: 'io', field: 'closed' });
    await client.closed;
  });

  it.each([
    ['noise', 'SSH-2.0-OpenSSH_9.2\r\n'],
    ['another greeting', '{"hello": 1}\n'],
    ['a greeting without a version', '{"QMP": {}}\n'],
    ['JSON that is no object', '[1]\n'],
    ['a line without end', 'x'.repeat(5 * 1024 * 1024)],
  ])('refuses a peer that sends %s', async (_, hello) => {
    await peer(() => undefined, hello);
    expect(await failure(QmpClient.connect(path))).toMatchObject({ code: 'io', path });
  });

  it('does not wait for ever for a peer that says nothing', async () => {
    await peer(() => undefined, '');
    expect(await failure(QmpClient.connect(path, { timeoutMs: 50 }))).toMatchObject({
      code: 'io',
      field: 'timeout',
    });
  });

  it('says when nobody listens', async () => {
    await peer(() => undefined);
    expect(await failure(QmpClient.connect(`${path}.none`))).toMatchObject({ code: 'not-found' });
  });
});
