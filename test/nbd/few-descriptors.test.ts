import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { encodeInfoRequest, encodeOption } from '../../src/storage/nbd/options.ts';
import { Option } from '../../src/storage/nbd/protocol.ts';
import { have } from '../support/programs.ts';
import { builtServer, nbdsh } from './support.ts';

/** Connects as soon as somebody listens. */
async function early(path: string): Promise<Socket> {
  for (;;) {
    const socket = connect(path);
    try {
      await once(socket, 'connect');
      socket.on('error', () => undefined);
      return socket;
    } catch {
      await sleep(10);
    }
  }
}

describe.skipIf(!have('nbdsh'))('a server that may open few files', () => {
  const server = builtServer();

  it('is not ended by more clients than that, of which some come before its image is open, and serves those who come then', async () => {
    const image = server.file('few.raw');
    writeFileSync(image, Buffer.alloc(1 << 20, 1));
    const program = server.file('few');
    const words = server.command.map((word) => `'${word}'`).join(' ');
    writeFileSync(program, `#!/bin/sh\nulimit -n 64\nexec ${words} "$@"\n`, { mode: 0o755 });
    const starting = server.start(['-t', '-e', '0', '-f', 'raw', image], { program });
    const crowd = await Promise.all(Array.from({ length: 100 }, () => early(server.file('s0'))));
    await using running = await starting;
    for (const socket of crowd) {
      socket.resume();
      socket.write(Uint8Array.from([0, 0, 0, 3]));
      socket.write(encodeOption(Option.go, encodeInfoRequest({ name: '', infos: [] })));
    }
    // Those who are not let in are sent away, and the others are served.
    for (let round = 0; round < 10; round++) {
      await sleep(100);
      for (const path of [running.socket, running.socket]) crowd.push(await early(path));
    }
    for (const socket of crowd) socket.destroy();
    const script = [
      `uri = '${running.uri}'`,
      'import time',
      'def fresh():',
      '    for left in range(100, -1, -1):',
      '        h = nbd.NBD()',
      '        try:',
      '            h.connect_uri(uri)',
      '            return h',
      '        except nbd.Error:',
      '            if not left: raise',
      '            time.sleep(0.1)',
      'many = [fresh() for _ in range(4)]',
      'print([bytes(h.pread(2, 512)) for h in many])',
    ].join('\n');
    const four = Array(4).fill("b'\\x01\\x01'").join(', ');
    expect(await nbdsh(script)).toMatchObject({ stdout: `[${four}]\n`, stderr: '' });
    expect(await running.stop()).toBe(0);
  });
});
