import { connect, createServer, type Server, type Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';
import { expect, it } from 'vitest';
import { tlsStarter } from '../../src/nbd/tls.ts';
import { connectSocket } from '../../src/platform/socket-stream.ts';
import { tempDir } from '../support/programs.ts';

/*
 * Keys that were agreed on beforehand, with one suite at the other end: who knows the key comes in, and nothing goes
 * unencrypted.
 */

const keys = new Map([['alice', Buffer.from('0123456789abcdef'.repeat(2), 'hex')]]);
const suites = [
  ['PSK-NULL-SHA256', false],
  ['PSK-NULL-SHA', false],
  ['ECDHE-PSK-NULL-SHA256', false],
  ['PSK-AES128-CBC-SHA', true],
  ['PSK-AES256-GCM-SHA384', true],
  ['ECDHE-PSK-CHACHA20-POLY1305', true],
] as const;
const only = (suite: string) =>
  ({ ciphers: `${suite}:@SECLEVEL=0`, minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' }) as const;

const listen = (server: Server, path: string) =>
  new Promise<void>((resolve) => server.listen(path, () => resolve()));

it.each(suites)('the server: %s', async (suite, allowed) => {
  await using place = await tempDir();
  const start = tlsStarter({ kind: 'psk', endpoint: 'server', username: 'qemu', keys }, undefined);
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    start(socket).then(
      (secured) => secured.end('in'),
      () => socket.destroy(),
    );
  });
  await listen(server, place.file('s'));
  const answer = await new Promise<string>((resolve) => {
    const client = connectTls({
      socket: connect(place.file('s')),
      ...only(suite),
      checkServerIdentity: () => undefined,
      pskCallback: () => ({ identity: 'alice', psk: keys.get('alice')! }),
    });
    client.on('data', (bytes) => resolve(`${bytes} by ${client.getCipher().name}`));
    client.on('error', () => undefined);
    client.on('close', () => resolve('out'));
  });
  server.close();
  expect(answer).toBe(allowed ? `in by ${suite}` : 'out');
});

it.each(suites)('the client: %s', async (suite, allowed) => {
  await using place = await tempDir();
  const plain = new Set<Socket>();
  const server = createTlsServer({ ...only(suite), pskCallback: () => keys.get('alice')! });
  server.on('connection', (socket) => plain.add(socket));
  server.on('tlsClientError', (_error, socket) => socket.destroy());
  await listen(server, place.file('s'));
  const stream = await connectSocket({ kind: 'unix', path: place.file('s') }, new AbortController().signal);
  const answer = await stream
    .secure({
      credentials: { kind: 'psk', username: 'alice', keys },
      hostname: undefined,
    })
    .then(
      () => 'in',
      () => 'out',
    );
  stream.close();
  for (const socket of plain) socket.destroy();
  server.close();
  expect(answer).toBe(allowed ? 'in' : 'out');
});
