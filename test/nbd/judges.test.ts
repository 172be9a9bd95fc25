import { spawn } from 'node:child_process';
import { createHash, randomFillSync } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run } from '../support/programs.ts';
import { nbdkit } from './client-support.ts';
import { builtServer, freePort, nbdsh, type RunningServer } from './support.ts';

const long = process.env.COWHERD_LONG === '1';
const mebi = 1024 * 1024;
const size = 64 * mebi;
const kinds = ['raw', 'qcow2', 'overlay'] as const;
const formatOf = (kind: string) => (kind === 'raw' ? 'raw' : 'qcow2');

describe.skipIf(!['qemu-img', 'qemu-io', 'nbdsh'].every(have))('clients of other projects', () => {
  const server = builtServer();
  const image = (kind: string) => server.file(`disk.${kind}`);
  let running: RunningServer;
  const uri = (kind: string) => `nbd+unix:///${kind}?socket=${running.socket}`;

  beforeAll(async () => {
    const base = server.file('base.raw');
    writeFileSync(base, randomFillSync(Buffer.alloc(size)));
    copyFileSync(base, image('raw'));
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', image('qcow2'), String(size)]);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', base, image('overlay')]);
    const exports = kinds.map((kind) => `--export=name=${kind},file=${image(kind)},format=${formatOf(kind)}`);
    running = await server.start(['-t', '-e', '0', '--discard=unmap', ...exports]);
  });
  afterAll(async () => {
    await running?.stop();
  });

  describe.skipIf(!have('fio'))('fio', () => {
    // Overlapping writes of several sizes, each block with a checksum of its own, read back after all and now and then before.
    it.each(kinds)('finds what it wrote at random places (%s)', async (kind) => {
      const length = long ? size : 4 * mebi;
      const args = [
        ...['--name=job', '--ioengine=nbd', `--uri=${uri(kind)}`, '--rw=randwrite', '--bs=512-64k'],
        ...[
          '--bs_unaligned=0',
          '--iodepth=16',
          `--size=${length}`,
          `--io_size=${long ? 8 * size : 2 * length}`,
        ],
        ...['--verify=crc32c', '--verify_fatal=1', '--verify_backlog=64', '--serialize_overlap=1'],
        ...['--end_fsync=1', '--randseed=6', '--output-format=terse'],
      ];
      const { code, stderr } = await run('fio', args, { cwd: server.file('.'), timeout: 600_000 });
      expect([code, stderr]).toEqual([0, '']);
    });
  });

  it.skipIf(!have('nbdfuse') || !existsSync('/dev/fuse') || !(isRoot || have('fusermount3')))(
    'nbdfuse mounts an export as a file',
    async () => {
      const place = server.file('mnt');
      mkdirSync(place);
      const file = `${place}/disk`;
      await using _mount = await mounted(file, uri('qcow2'));
      expect(statSync(file).size).toBe(size);
      const content = randomFillSync(Buffer.alloc(3 * mebi + 77));
      const fd = openSync(file, 'r+');
      try {
        expect(writeSync(fd, content, 0, content.length, 40 * mebi + 13)).toBe(content.length);
        const back = Buffer.alloc(content.length);
        expect(readSync(fd, back, 0, back.length, 40 * mebi + 13)).toBe(back.length);
        expect(back.equals(content)).toBe(true);
      } finally {
        closeSync(fd);
      }
      const seen = await nbdsh(
        `import hashlib\nh.connect_uri('${uri('qcow2')}')\nprint(hashlib.sha256(h.pread(${content.length}, ${40 * mebi + 13})).hexdigest())`,
      );
      expect(seen.stdout.trim()).toBe(createHash('sha256').update(content).digest('hex'));
    },
  );

  it.skipIf(!have('nbdkit'))('nbdkit passes an export on by its nbd plugin', async () => {
    const socket = server.file('kit.sock');
    await using proxy = await nbdkit(socket, ['nbd', `uri=${uri('overlay')}`, 'shared=true']);
    const script =
      `h.add_meta_context('base:allocation')\nh.connect_uri('${proxy.uri}')\n` +
      `assert h.can_fua() and h.can_zero() and h.can_trim() and h.can_cache() and h.can_fast_zero()\n` +
      `h.pwrite(b'k' * 100000, 33000000, nbd.CMD_FLAG_FUA)\nh.zero(65536, 33062912)\nh.cache(65536, 0)\nh.flush()\n` +
      `found = []\nh.block_status(131072, 33030144, lambda c,o,e,r: found.extend(e))\n` +
      `print(h.pread(100000, 33000000).count(b'k'), sum(found[0::2]) >= 131072)`;
    const { stdout, stderr } = await nbdsh(script);
    expect([stdout, stderr]).toEqual(['62912 True\n', '']);
    await mustRun('qemu-img', ['compare', '-q', '-f', 'raw', '-F', 'raw', proxy.uri, uri('overlay')]);
  });

  /** The same by every transport, and on a file by qemu alone. */
  const commands = [
    ...['write -P 17 0 64k', 'write -P 34 123456 7777', 'write -z 32k 16k', 'write -z -u 1M 1M'],
    ...[
      'write -f -P 51 3M 100k',
      'discard 3M 64k',
      'writev -P 68 5M 512 1024 4096',
      'flush',
      'aio_write -P 85 7M 1M',
    ],
    ...[
      'aio_flush',
      'read -v 32256 1k',
      'read -P 85 7M 1M',
      'read -P 68 5M 5632',
      'readv -P 34 123456 4096 3681',
    ],
    ...['read -P 9 0 512', 'write 64M 512', 'read 67108352 1k', 'length', 'aio_read -v 1048064 1k'],
  ].flatMap((command) => ['-c', command]);
  const worn = (text: string) =>
    text
      .replaceAll(/^.*ops; .*$/gm, '')
      .replaceAll(/(offset|sec) [0-9.]+/g, '$1')
      .trim();

  it.each(['raw', 'qcow2'])(
    'qemu-io and qemu-img do over NBD what they do to a file (%s)',
    async (format) => {
      const [plain, ours, copy] = ['plain', 'ours', 'copy'].map((name) =>
        server.file(`io-${name}.${format}`),
      );
      for (const file of [plain, ours]) {
        await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', format, server.file('base.raw'), file]);
      }
      const locally = await run('qemu-io', ['-d', 'unmap', '-f', format, ...commands, plain]);
      const port = await freePort();
      for (const transport of ['unix', 'tcp']) {
        const args = ['-t', '-e', '4', '--discard=unmap', '-f', format, ours];
        await using one = await (transport === 'unix' ? server.start(args) : server.startTcp(port, args));
        const name = transport === 'unix' ? one.uri : `nbd://127.0.0.1:${port}`;
        const remotely = await run('qemu-io', ['-d', 'unmap', '-f', 'raw', ...commands, name]);
        expect(worn(remotely.stdout)).toBe(worn(locally.stdout));
        await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', format, name, copy]);
        expect(await one.stop()).toBe(0);
        await mustRun('qemu-img', ['compare', '-q', '-f', format, '-F', format, ours, copy]);
        if (format === 'qcow2') await mustRun('qemu-img', ['check', '-q', ours]);
      }
    },
  );

  it('have all that they wrote in sound images', async () => {
    expect(await running.stop()).toBe(0);
    for (const kind of ['qcow2', 'overlay']) await mustRun('qemu-img', ['check', '-q', image(kind)]);
    expect(readFileSync(server.file('base.raw')).length).toBe(size);
  });
});

/** nbdfuse, until it is disposed: it then unmounts the file itself. */
async function mounted(file: string, uri: string): Promise<AsyncDisposable> {
  writeFileSync(file, '');
  const child = spawn('nbdfuse', [file, uri], { stdio: 'ignore' });
  const over = new Promise((resolve) => child.on('close', resolve));
  while (statSync(file).size === 0 && child.exitCode === null) await sleep(20);
  return {
    async [Symbol.asyncDispose]() {
      child.kill();
      await over;
    },
  };
}
