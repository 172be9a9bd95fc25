import { once } from 'node:events';
import { truncateSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have } from '../support/programs.ts';
import { builtServer, type RunningServer } from './support.ts';

/*
 * Extended headers (64-bit lengths), which no installed client speaks. Every byte is written here by hand as the protocol
 * document lays it down (sections "Extended request message", "Extended reply chunk message", "Extended header
 * negotiation"): an encoder of ours would make the mistakes of our decoder.
 */

const gibi = 1024 ** 3;
const size = 8 * gibi;

const cookie = '1122334455667788';
const request = (flags: string, type: string, offset: string, length: string) =>
  `21e41c71${flags}${type}${cookie}${offset}${length}`;
const chunk = (flags: string, type: string, offset: string, length: string) =>
  `6e8a278c${flags}${type}${cookie}${offset}${length}`;
const zero = '0000000000000000';

/** A client of bytes. */
class Peer {
  readonly #socket: Socket;
  #got = '';

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (bytes) => {
      this.#got += bytes.toString('hex');
    });
  }

  say(hex: string): void {
    this.#socket.write(Buffer.from(hex, 'hex'));
  }

  async hear(bytes: number): Promise<string> {
    while (this.#got.length < bytes * 2) await once(this.#socket, 'data');
    const heard = this.#got.slice(0, bytes * 2);
    this.#got = this.#got.slice(bytes * 2);
    return heard;
  }

  end(): void {
    this.#socket.destroy();
  }
}

const option = (type: string, data = '') =>
  `49484156454f5054${type}${(data.length / 2).toString(16).padStart(8, '0')}${data}`;
const reply = (type: string, kind: string, data = '') =>
  `0003e889045565a9${type}${kind}${(data.length / 2).toString(16).padStart(8, '0')}${data}`;

async function negotiated(path: string): Promise<Peer> {
  const socket = connect(path);
  await once(socket, 'connect');
  const peer = new Peer(socket);
  expect(await peer.hear(18)).toBe('4e42444d4147494349484156454f50540003');
  peer.say('00000003');
  // EXTENDED_HEADERS is 11; it stands for structured replies as well.
  peer.say(option('0000000b'));
  expect(await peer.hear(20)).toBe(reply('0000000b', '00000001'));
  peer.say(option('00000008'));
  const refused = await peer.hear(20);
  expect(refused.slice(0, 32)).toBe('0003e889045565a9000000088000000a');
  await peer.hear(Number.parseInt(refused.slice(32), 16));
  // SET_META_CONTEXT for the export '' and one query, base:allocation.
  const name = Buffer.from('base:allocation').toString('hex');
  peer.say(option('0000000a', `00000000000000010000000f${name}`));
  expect(await peer.hear(20 + 4 + 15)).toBe(reply('0000000a', '00000004', `00000000${name}`));
  expect(await peer.hear(20)).toBe(reply('0000000a', '00000001'));
  // GO for the export '', without info requests.
  peer.say(option('00000007', '000000000000'));
  for (;;) {
    const header = await peer.hear(20);
    const data = await peer.hear(Number.parseInt(header.slice(32), 16));
    if (header.slice(24, 32) === '00000001') return peer;
    expect(header.slice(24, 32)).toBe('00000003');
    if (data.startsWith('0000')) expect(data.slice(4, 20)).toBe('0000000200000000');
  }
}

describe.skipIf(!have('qemu-img'))('extended headers, by bytes of the protocol document', () => {
  const server = builtServer();
  let running: RunningServer;
  beforeAll(async () => {
    const image = server.file('large.raw');
    writeFileSync(image, Buffer.alloc(4096, 'A'));
    truncateSync(image, size);
    running = await server.start(['-t', '-e', '4', '-f', 'raw', '--discard=unmap', image]);
  });
  afterAll(async () => running?.stop());

  it('say lengths beyond 32 bits', async () => {
    const peer = await negotiated(running.socket);
    // BLOCK_STATUS (7) of all 8 GiB: a chunk of type 6, context, count, and descriptors of 64-bit length and flags.
    peer.say(request('0000', '0007', zero, '0000000200000000'));
    const header = await peer.hear(32);
    expect(header.slice(0, 48)).toBe(chunk('0001', '0006', zero, '').slice(0, 48));
    expect(header.slice(48)).toBe('0000000000000028');
    expect(await peer.hear(8)).toBe('0000000000000002');
    expect(await peer.hear(32)).toBe(`0000000000001000${zero}00000001fffff0000000000000000003`);
    // WRITE_ZEROES (6) and TRIM (4) of more than 4 GiB, answered by one chunk of type 0 that names the offset.
    peer.say(request('0000', '0006', '0000000000100000', '0000000140000000'));
    expect(await peer.hear(32)).toBe(chunk('0001', '0000', '0000000000100000', zero));
    peer.say(request('0000', '0004', '0000000000200000', '0000000140000000'));
    expect(await peer.hear(32)).toBe(chunk('0001', '0000', '0000000000200000', zero));
    peer.end();
  });

  it('read and write', async () => {
    const peer = await negotiated(running.socket);
    // WRITE (1) carries PAYLOAD_LENGTH (bit 5).
    peer.say(`${request('0020', '0001', '0000000180000000', '0000000000000004')}deadbeef`);
    expect(await peer.hear(32)).toBe(chunk('0001', '0000', '0000000180000000', zero));
    peer.say(request('0004', '0000', '0000000180000000', '0000000000000004'));
    // OFFSET_DATA: 8 bytes of offset, then the data.
    expect(await peer.hear(32)).toBe(chunk('0001', '0001', '0000000180000000', '000000000000000c'));
    expect(await peer.hear(12)).toBe('0000000180000000deadbeef');
    // A read of more than any payload may be, and one past the end: error chunks (bit 15), and the peer goes on.
    for (const [offset, length] of [
      [zero, '0000000140000000'],
      ['0000000200000000', '0000000000000001'],
    ]) {
      peer.say(request('0000', '0000', offset, length));
      const refusal = await peer.hear(32);
      expect(refusal.slice(0, 48)).toBe(chunk('0001', '8001', offset, '').slice(0, 48));
      expect((await peer.hear(Number.parseInt(refusal.slice(48), 16))).slice(0, 8)).toBe('00000016');
    }
    // RESIZE (8) of the protocol document is not offered, and refused without harm.
    peer.say(request('0000', '0008', zero, '0000000000100000'));
    const noResize = await peer.hear(32);
    expect(noResize.slice(0, 48)).toBe(chunk('0001', '8001', zero, '').slice(0, 48));
    expect((await peer.hear(Number.parseInt(noResize.slice(48), 16))).slice(0, 8)).toBe('00000016');
    peer.say(request('0000', '0003', zero, zero));
    expect(await peer.hear(32)).toBe(chunk('0001', '0000', zero, zero));
    peer.end();
  });
});
