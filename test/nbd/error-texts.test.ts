import { truncateSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { builtServer } from './support.ts';

/** A client of bytes, with structured replies: sends each request, and prints the error and the text that it is answered with. */
const client = `
import json, socket, struct, sys
path, context, requests = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
s = socket.socket(socket.AF_UNIX)
s.connect(path)
def read(n):
    got = b''
    while len(got) < n:
        piece = s.recv(n - len(got))
        assert piece, 'the server has gone'
        got += piece
    return got
def option(number, data=b''):
    s.sendall(b'IHAVEOPT' + struct.pack('>II', number, len(data)) + data)
    while True:
        _, _, kind, length = struct.unpack('>QIII', read(20))
        read(length)
        assert kind >> 31 == 0, (number, kind)
        if kind == 1: return
read(18)
s.sendall(struct.pack('>I', 3))
option(8)
if context: option(10, struct.pack('>III', 0, 1, len(context)) + context.encode())
option(7, struct.pack('>IH', 0, 0))
def ask(flags, command, offset, length, data=0):
    s.sendall(struct.pack('>IHHQQI', 0x25609513, flags, command, 7, offset, length) + b'x' * data)
    while True:
        if read(4) == b'gDf\\x98': return struct.unpack('>IQ', read(12))[0]
        flags, kind, _, length = struct.unpack('>HHQI', read(16))
        data = read(length)
        if kind >> 15:
            error, text = struct.unpack('>IH', data[:6])
            assert length == 6 + text
            return [error, data[6:].decode()]
        if flags & 1: return 0
print(json.dumps([ask(*one) for one in requests]))
`;

const size = 1024 * 1024;
type Ask = readonly [flags: number, command: number, offset: number, length: number, data?: number];

describe.skipIf(!have('python3') || !have('qemu-nbd'))('errors to clients of structured replies', () => {
  const server = builtServer();

  async function answers(
    program: string | undefined,
    args: readonly string[],
    requests: readonly Ask[],
    context = '',
  ) {
    await using running = await server.start(['-t', '-e', '0', ...args], { program });
    const words = ['-c', client, running.socket, context, JSON.stringify(requests)];
    return JSON.parse(await mustRun('python3', words)) as (number | [number, string])[];
  }

  /** What both say. Of numbers, those that the protocol has for it count, where qemu-nbd always says EINVAL. */
  async function same(args: readonly string[], requests: readonly Ask[], context?: string) {
    const [own, theirs] = [
      await answers(undefined, args, requests, context),
      await answers('qemu-nbd', args, requests, context),
    ];
    const texts = (all: typeof own) => all.map((one) => (Array.isArray(one) ? one[1] : one));
    expect(texts(own)).toEqual(texts(theirs));
    return own;
  }

  it('have qemu-nbd’s texts', async () => {
    const image = server.file('image.raw');
    writeFileSync(image, '');
    truncateSync(image, size);
    const refused = await same(
      ['-f', 'raw', image],
      [
        [0, 0, size, 512],
        [0, 0, size - 512, 513],
        [0, 1, size, 1, 1],
        [0, 4, size, 512],
        [0, 5, size, 512],
        [0, 6, size, 512],
        [2, 0, 0, 512],
        [16, 1, 0, 1, 1],
        [16, 4, 0, 512],
        [8, 3, 0, 0],
        [0, 7, 0, 512],
        [0, 7, 0, 0],
        [0, 99, 0, 0],
        [0, 0, 0, 33_554_433],
        [0, 1, 0, 1, 1],
      ],
    );
    expect(refused.at(0)).toEqual([22, `operation past EOF; From: ${size}, Len: 512, Size: ${size}`]);
    expect(refused.at(2)).toEqual([28, expect.stringContaining('past EOF')]);
    expect(refused.at(-1)).toBe(0);
    const status = [
      [2, 7, 0, 512],
      [0, 7, size, 1],
      [0, 7, 0, 512],
    ] as const;
    await same(['-f', 'raw', image], status, 'base:allocation');
    const changes = [
      [0, 1, 0, 1, 1],
      [0, 4, 0, 512],
      [0, 6, 0, 512],
    ] as const;
    expect(await same(['-r', '-f', 'raw', image], changes)).toEqual(
      changes.map(() => [1, 'Export is read-only']),
    );
    const failing = (what: string) => [
      '--image-opts',
      `driver=raw,file.driver=blkdebug,file.inject-error.0.event=none,file.inject-error.0.iotype=${what},` +
        `file.image.driver=file,file.image.filename=${image}`,
    ];
    // In one piece: qemu-nbd leaves a client whose other reads fail.
    expect(await same(failing('read'), [[4, 0, 0, 512]])).toEqual([[5, 'reading from file failed']]);
    expect(await same(failing('write'), [[0, 1, 0, 1, 1]])).toEqual([[5, 'writing to file failed']]);
    expect(await same(failing('write-zeroes'), [[0, 6, 0, 4096]])).toEqual([[5, 'writing to file failed']]);
    const [parts] = await answers(undefined, failing('read'), [[0, 0, 0, 512]]);
    expect(parts).toEqual([5, 'reading from file failed']);
  }, 60_000);
});
