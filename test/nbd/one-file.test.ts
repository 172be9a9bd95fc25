import { readFile, rename, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { byteLocks } from '../../src/platform/byte-locks.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { builtServer, nbdsh } from './support.ts';

const bytes = 4 * 1024 * 1024;

describe.skipIf(!have('qemu-img') || !have('nbdsh') || !have('nbdinfo'))('an image that is served', () => {
  const built = builtServer();

  it('stays the one that was opened, for all clients, though its name leads to another file', async () => {
    const [served, other] = [built.file('served'), built.file('other')];
    await writeFile(served, Buffer.alloc(bytes, 'A'));
    await writeFile(other, Buffer.alloc(bytes, 'B'));
    await using server = await built.start(['-f', 'raw', '-t', '-e', '4', served]);
    const script = [
      'import nbd, os',
      `uri = '${server.uri}'`,
      'def client():',
      '  c = nbd.NBD(); c.connect_uri(uri); return c',
      'one = client()',
      "assert one.pread(4, 0) == b'AAAA'",
      `os.rename('${served}', '${served}.old'); os.rename('${other}', '${served}')`,
      'more = [client() for _ in range(3)]',
      'for n, c in enumerate(more):',
      "  assert c.pread(4, 0) == b'AAAA', n",
      "  c.pwrite(b'X' * 512, 4096 * (n + 1)); c.flush()",
      'for n in range(3):',
      "  assert one.pread(4, 4096 * (n + 1)) == b'XXXX', n",
    ].join('\n');
    const said = await nbdsh(script);
    expect([said.code, said.stderr]).toEqual([0, '']);
    await server.stop();
    expect((await readFile(served)).equals(Buffer.alloc(bytes, 'B'))).toBe(true);
    expect((await readFile(`${served}.old`)).subarray(4096, 4100).toString()).toBe('XXXX');
    await rename(`${served}.old`, served);
  });

  it.skipIf(!byteLocks() || !have('qemu-nbd')).each([
    ['qemu-nbd', []],
    ['qemu-nbd', ['-r']],
    ['cow-nbd', []],
    ['cow-nbd', ['-r']],
  ] as const)('is made no shorter by others, raw or not: %s %j', async (program, options) => {
    const name = built.file(`kept-${program}${options.length}`);
    await writeFile(name, Buffer.alloc(bytes, 9));
    const how = program === 'qemu-nbd' ? { program } : {};
    await using server = await built.start([...options, '-f', 'raw', '-t', name], how);
    // It listens before it has the image open.
    await mustRun('nbdinfo', [server.uri]);
    for (const args of [
      ['create', '-f', 'raw', name, '1M'],
      ['resize', '-f', 'raw', '--shrink', name, '2M'],
    ]) {
      const { code, stderr } = await run('qemu-img', args);
      expect([args[0], code, stderr]).toEqual([args[0], 1, expect.stringContaining('"resize" lock')]);
    }
    // What leaves its size alone is none of the server's business, as with QEMU.
    if (options.length > 0) {
      await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 512', name]);
    }
    await server.stop();
    expect((await readFile(name)).equals(Buffer.alloc(bytes, 9))).toBe(true);
  });
});
