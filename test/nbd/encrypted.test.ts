import { randomBytes } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/node.ts';
import { have, mustRun } from '../support/programs.ts';
import { builtServer, nbdsh } from './support.ts';

const secret = ['--object', 'secret,id=s,data=correct horse'];
const bytes = 3 * 1024 * 1024;

const cbc = {
  'cipher-alg': 'aes-128',
  'cipher-mode': 'cbc',
  'ivgen-alg': 'essiv',
  'ivgen-hash-alg': 'sha256',
};
const kinds = [
  ['luks', 'luks', {}, ''],
  ['luks in CBC', 'luks', cbc, ''],
  ['qcow2 with luks', 'qcow2', { 'encrypt.format': 'luks' }, 'encrypt.'],
] as const;

/** Not by QEMU: it makes none where the machine is too busy to time its key derivation. */
function create(path: string, format: string, size: number, prefix: string, options: object): Promise<void> {
  return createImageFile(path, {
    format,
    size,
    options: { [`${prefix}key-secret`]: 's', [`${prefix}iter-time`]: 0, ...options },
    secret: async () => new TextEncoder().encode('correct horse'),
  });
}

/** Where no sector begins, over several, within one, next to each other. */
const operations = [
  [1000, 3000, 7],
  [512, 512, 8],
  [65_000, 70_000, 9],
  [1_048_576, 1_048_576, 10],
  [1_048_000, 1000, 11],
  [bytes - 700, 700, 12],
] as const;

describe.skipIf(!have('qemu-img') || !have('qemu-io') || !have('nbdcopy'))('encrypted exports', () => {
  const built = builtServer();

  it.each(kinds)(
    '%s: what is written over NBD, QEMU reads in the image',
    async (_, format, options, prefix) => {
      const name = `image-${format}-${Object.keys(options).length}`;
      const image = built.file(name);
      const model = built.file(`${name}.model`);
      const named = `driver=${format},file.filename=${image},${prefix}key-secret=s`;
      await writeFile(model, randomBytes(bytes));
      await create(image, format, bytes, prefix, options);
      await mustRun('qemu-img', [
        'convert',
        '-n',
        ...secret,
        '-f',
        'raw',
        model,
        '--target-image-opts',
        named,
      ]);
      const writes = operations.map(([at, length, pattern]) => `write -P ${pattern} ${at} ${length}`);
      // Each is read again at once, while others are under way.
      const commands = writes.flatMap((write, index) => [
        `aio_${write}`,
        `aio_read ${index * 4096} 64k`,
        'aio_flush',
        write.replace('write', 'read'),
      ]);
      {
        await using server = await built.start(['-t', '-e', '8', ...secret, '--image-opts', named]);
        const said = await mustRun('qemu-io', [
          '-f',
          'raw',
          ...commands.flatMap((one) => ['-c', one]),
          server.uri,
        ]);
        expect(said).not.toMatch(/verification failed|error/);
        const last = 'flush';
        await mustRun('qemu-io', ['-f', 'raw', '-c', last, server.uri]);
        expect(await server.stop('SIGTERM')).toBe(0);
      }
      await mustRun('qemu-io', ['-f', 'raw', ...writes.flatMap((one) => ['-c', one]), model]);
      const compare = ['compare', ...secret, '--image-opts', named, `driver=raw,file.filename=${model}`];
      expect(await mustRun('qemu-img', compare)).toBe('Images are identical.\n');

      // Read-only exports are opened by several threads.
      await using server = await built.start(['-r', '-t', '-e', '8', ...secret, '--image-opts', named]);
      const copies = [1, 2, 3].map(async (copy) => {
        const out = built.file(`${name}.out${copy}`);
        await mustRun('nbdcopy', ['--connections=4', server.uri, out]);
        return (await readFile(out)).equals(await readFile(model));
      });
      expect(await Promise.all(copies)).toEqual([true, true, true]);
    },
  );

  it.skipIf(!have('nbdsh')).each(kinds)(
    '%s: writes of parts of sectors and of whole ones, all under way at once, are all there',
    async (_, format, options, prefix) => {
      const image = built.file(`at-once-${format}-${Object.keys(options).length}`);
      await create(image, format, bytes, prefix, options);
      const named = `driver=${format},file.filename=${image},${prefix}key-secret=s`;
      await using server = await built.start(['-t', '-e', '8', ...secret, '--image-opts', named]);
      // Two clients write pieces that touch, none of which overlaps another, and read meanwhile.
      const script = `
import random
random.seed(7)
size = 64 * 1024
clients = [nbd.NBD(), nbd.NBD()]
for c in clients: c.connect_uri('${server.uri}')
model = bytearray(size)
clients[0].pwrite(model, 0)
for turn in range(40):
    at, cookies = 0, []
    while at < size:
        length = random.choice((100, 412, 512, 512, 1024, 4096, 4097, 511))
        length = min(length, size - at)
        piece = bytes([random.randrange(1, 256)]) * length
        c = random.choice(clients)
        cookies.append((c, c.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(piece)), at)))
        if random.random() < 0.1: cookies.append((c, c.aio_pread(nbd.Buffer(512), at // 512 * 512)))
        model[at:at + length] = piece
        at += length
    for c, cookie in cookies:
        while not c.aio_command_completed(cookie): c.poll(-1)
    assert clients[turn % 2].pread(size, 0) == model, turn
`;
      expect(await nbdsh(script)).toMatchObject({ stdout: '', stderr: '', code: 0 });
    },
  );

  it.skipIf(!have('nbdsh'))(
    'several threads: parts of one sector that clients write at once are all there, and nobody reads one half written',
    async () => {
      const image = built.file('threads.luks');
      await create(image, 'luks', bytes, '', {});
      const named = `driver=luks,file.filename=${image},key-secret=s`;
      await using server = await built.start(['-t', '-e', '8', ...secret, '--image-opts', named]);
      // Each writer has a quarter of every sector, which is of one byte throughout whenever it is read.
      const script = `
import random
random.seed(11)
writers = [nbd.NBD() for _ in range(4)]
reader = nbd.NBD()
for c in writers + [reader]: c.connect_uri('${server.uri}')
sectors = 8
reader.pwrite(bytearray(sectors * 512), 0)
last = {}
for turn in range(400):
    cookies = []
    for quarter, c in enumerate(writers):
        for sector in range(sectors):
            value = random.randrange(256)
            last[sector, quarter] = value
            at = sector * 512 + quarter * 128
            cookies.append((c, c.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([value]) * 128), at)))
    for _ in range(4):
        got = reader.pread(sectors * 512, 0)
        for at in range(0, len(got), 128):
            assert got[at:at + 128] == got[at:at + 1] * 128, (turn, at, got[at:at + 128].hex())
    for c, cookie in cookies:
        while not c.aio_command_completed(cookie): c.poll(-1)
got = reader.pread(sectors * 512, 0)
for (sector, quarter), value in last.items():
    assert got[sector * 512 + quarter * 128] == value, (sector, quarter)
`;
      expect(await nbdsh(script)).toMatchObject({ stdout: '', stderr: '', code: 0 });
      // An image whose map changes has one thread for all its clients.
      const other = built.file('threads.qcow2');
      await create(other, 'qcow2', bytes, 'encrypt.', { 'encrypt.format': 'luks' });
      const otherNamed = `driver=qcow2,file.filename=${other},encrypt.key-secret=s`;
      await using single = await built.start(['-t', '-e', '8', ...secret, '--image-opts', otherNamed]);
      const threads = async ({ pid }: { readonly pid: number }) =>
        (await readdir(`/proc/${pid}/task`)).length;
      expect(await threads(server)).toBeGreaterThan(await threads(single));
    },
  );

  it('a large copy in and out is right', async () => {
    const size = 96 * 1024 * 1024;
    const source = built.file('large');
    await writeFile(source, randomBytes(size));
    const image = built.file('large.luks');
    await create(image, 'luks', size, '', {});
    const named = `driver=luks,file.filename=${image},key-secret=s`;
    const out = built.file('large.out');
    {
      await using server = await built.start(['-t', '-e', '8', ...secret, '--image-opts', named]);
      for (let round = 0; round < 2; round++) await mustRun('nbdcopy', [source, server.uri]);
      await mustRun('nbdcopy', [server.uri, out]);
      expect(await server.stop('SIGTERM')).toBe(0);
    }
    expect((await readFile(out)).equals(await readFile(source))).toBe(true);
    const compare = ['compare', ...secret, '--image-opts', named, `driver=raw,file.filename=${source}`];
    expect(await mustRun('qemu-img', compare)).toBe('Images are identical.\n');
  });

  it('a passphrase is read once: from a pipe, for all threads', async () => {
    const image = built.file('pipe.luks');
    await create(image, 'luks', bytes, '', {});
    const pipe = built.file('pipe');
    await mustRun('mkfifo', [pipe]);
    const writer = writeFile(pipe, 'correct horse');
    const named = `driver=luks,file.filename=${image},key-secret=s`;
    const object = ['--object', `secret,id=s,file=${pipe}`];
    await using server = await built.start(['-t', '-e', '8', ...object, '--image-opts', named]);
    await writer;
    const model = built.file('pipe.model');
    const out = built.file('pipe.out');
    await writeFile(model, randomBytes(bytes));
    await mustRun('nbdcopy', ['--connections=4', model, server.uri]);
    await mustRun('nbdcopy', ['--connections=4', server.uri, out]);
    expect((await readFile(out)).equals(await readFile(model))).toBe(true);
    expect(await server.stop('SIGTERM')).toBe(0);
  });

  it('a passphrase from a pipe opens the image of a server in the background', async () => {
    const image = built.file('forked.luks');
    await create(image, 'luks', bytes, '', {});
    const [pipe, socket, pidFile] = ['forked.pipe', 'forked.sock', 'forked.pid'].map((name) =>
      built.file(name),
    );
    await mustRun('mkfifo', [pipe]);
    const writer = writeFile(pipe, 'correct horse');
    const named = `driver=luks,file.filename=${image},key-secret=s`;
    const object = ['--object', `secret,id=s,file=${pipe}`];
    const [node, script] = built.command;
    await mustRun(node, [
      script,
      '--fork',
      '-k',
      socket,
      '--pid-file',
      pidFile,
      ...object,
      '--image-opts',
      named,
    ]);
    await writer;
    // The server goes when its client has gone.
    expect((await mustRun('nbdinfo', ['--size', `nbd+unix:///?socket=${socket}`])).trim()).toBe(
      String(bytes),
    );
  });

  it.skipIf(!have('nbdsh'))('long zeroes are written while others read and write beside them', async () => {
    const mebi = 1024 * 1024;
    const source = built.file('zeroed.model');
    const content = randomBytes(48 * mebi);
    await writeFile(source, content);
    const image = built.file('zeroed.luks');
    await create(image, 'luks', content.length, '', {});
    const named = `driver=luks,file.filename=${image},key-secret=s`;
    const [from, to] = [5 * mebi + 100, 36 * mebi + 300];
    {
      await using server = await built.start(['-t', '-e', '8', ...secret, '--image-opts', named]);
      await mustRun('nbdcopy', [source, server.uri]);
      // A write within the last sector that is zeroed in part, and one where nothing is.
      const script = `
a, b = nbd.NBD(), nbd.NBD()
for c in (a, b): c.connect_uri('${server.uri}')
zeroes = a.aio_zero(${to - from}, ${from})
for turn in range(50): b.pwrite(b'x' * 50, ${to})
b.pwrite(b'y' * 4096, 1000)
assert b.pread(4096, 1000) == b'y' * 4096
while not a.aio_command_completed(zeroes): a.poll(-1)
assert b.pread(${to - from}, ${from}) == bytes(${to - from})
`;
      expect(await nbdsh(script)).toMatchObject({ stdout: '', stderr: '', code: 0 });
      expect(await server.stop('SIGTERM')).toBe(0);
    }
    content.fill(0, from, to);
    content.fill('x', to, to + 50);
    content.fill('y', 1000, 1000 + 4096);
    await writeFile(source, content);
    const compare = ['compare', ...secret, '--image-opts', named, `driver=raw,file.filename=${source}`];
    expect(await mustRun('qemu-img', compare)).toBe('Images are identical.\n');
  });
});
