import { statSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import type { Image } from '../../src/image/image.ts';
import { NodeOptions } from '../../src/image/nodes/node-options.ts';
import { openImageFile, trustedImages } from '../../src/node.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, type TempDir, tempDir } from '../support/programs.ts';

/* Nodes at work, judged by qemu-img and qemu-io: what they do to data, and not only what they say. */

const mebi = 1024 * 1024;
let dir: TempDir;

beforeAll(async () => {
  dir = await tempDir('cowherd-nodes-');
});
afterAll(() => dir.remove());

const qemu = (line: string) => mustRun('qemu-img', line.split(' '), { cwd: dir.path });
const io = (file: string, ...commands: string[]) =>
  mustRun('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), dir.file(file)]);

beforeEach(async () => {
  if (!have('qemu-img') || !have('qemu-io')) return;
  await qemu('create -q -f qcow2 base.qcow2 4M');
  await io('base.qcow2', 'write -P 5 0 1M', 'write -P 6 2M 100k');
  await qemu('create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2');
  await io('top.qcow2', 'write -P 9 64k 64k');
});

async function cow(...line: string[]): Promise<{ code: number; out: string; err: string }> {
  const home = process.cwd();
  process.chdir(dir.path);
  try {
    const context = testContext({ program: 'cow-img', cwd: dir.path });
    const code = await cowImg(line, context);
    return { code, out: context.out(), err: context.err() };
  } finally {
    process.chdir(home);
  }
}

function node(options: Record<string, string | number | boolean>, writable = true): Promise<Image> {
  return openImageFile(new NodeOptions(Object.entries(options)), { writable, policy: trustedImages });
}

async function depths(file: string): Promise<Map<number, number>> {
  const map = JSON.parse(await qemu(`map --output=json ${file}`)) as { start: number; depth: number }[];
  return new Map(map.map(({ start, depth }) => [start, depth]));
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('copy-on-read', () => {
  const over = (file: string) => ({
    driver: 'copy-on-read',
    'file.driver': 'qcow2',
    'file.file.filename': dir.file(file),
  });

  it('writes what is read into the image, and nothing else', async () => {
    await qemu('convert -O raw top.qcow2 before.raw');
    {
      await using image = await node(over('top.qcow2'));
      const bytes = new Uint8Array(300 * 1024);
      await image.read(0, bytes);
      expect(bytes[0]).toBe(5);
      expect(bytes[64 * 1024]).toBe(9);
    }
    const found = await depths('top.qcow2');
    expect(found.get(0)).toBe(0);
    // 300 KiB end inside the fifth cluster, which is copied whole.
    expect(found.get(5 * 64 * 1024)).toBe(1);
    await qemu('check top.qcow2');
    await qemu('compare -F raw top.qcow2 before.raw');
  });

  it('never puts old data over what is written meanwhile', async () => {
    await using image = await node(over('top.qcow2'));
    for (let round = 0; round < 40; round++) {
      const at = round * 20_000;
      const reading = image.read(at, new Uint8Array(200_000));
      const writing = image.write(at + 50_000, new Uint8Array(30_000).fill(0xaa));
      await Promise.all([reading, writing]);
      const check = new Uint8Array(30_000);
      await image.read(at + 50_000, check);
      expect(check.every((byte) => byte === 0xaa)).toBe(true);
    }
  });
});

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('compress', () => {
  it('stores packed clusters, as a target of convert', async () => {
    await qemu('create -q -f qcow2 packed.qcow2 4M');
    const target = 'driver=compress,file.driver=qcow2,file.file.filename=packed.qcow2';
    expect(await cow('convert', '-n', '--target-image-opts', 'top.qcow2', target)).toMatchObject({
      code: 0,
      err: '',
    });
    await qemu('compare top.qcow2 packed.qcow2');
    const check = JSON.parse(await qemu('check --output=json packed.qcow2'));
    expect(check['compressed-clusters']).toBeGreaterThan(10);
  });
});

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('preallocate', () => {
  it('sets space aside while the file grows, and cuts it off at the end', async () => {
    await qemu('create -q -f qcow2 grows.qcow2 64M');
    const description = {
      driver: 'qcow2',
      'file.driver': 'preallocate',
      'file.file.filename': dir.file('grows.qcow2'),
      'file.prealloc-size': '8M',
    };
    {
      await using image = await node(description);
      await image.write(0, new Uint8Array(2 * mebi).fill(3));
      expect(statSync(dir.file('grows.qcow2')).size).toBeGreaterThan(8 * mebi);
    }
    expect(statSync(dir.file('grows.qcow2')).size).toBeLessThan(3 * mebi);
    await qemu('check grows.qcow2');
    const bytes = await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'read -P 3 0 2M', dir.file('grows.qcow2')]);
    expect(bytes).not.toContain('Pattern verification failed');
  });
});

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('blkdebug', () => {
  const under = (rules: Record<string, string | number | boolean>) => ({
    driver: 'qcow2',
    'file.driver': 'blkdebug',
    'file.image.filename': dir.file('top.qcow2'),
    ...Object.fromEntries(Object.entries(rules).map(([name, value]) => [`file.${name}`, value])),
  });

  it('fails the requests that a rule is about, with its error', async () => {
    await using image = await node(
      under({ 'inject-error.0.event': 'write_aio', 'inject-error.0.errno': 28, 'inject-error.0.once': true }),
    );
    const write = () => image.write(3 * mebi, new Uint8Array(65536).fill(1));
    await expect(write()).rejects.toMatchObject({ code: 'out-of-space', detail: { errno: 'ENOSPC' } });
    await write();
    const bytes = new Uint8Array(1);
    await image.read(3 * mebi, bytes);
    expect(bytes[0]).toBe(1);
  });

  it('leaves an image that qemu-img calls clean, whatever moment fails', async () => {
    const events =
      'l2_load l2_update l1_update cluster_alloc cow_read cow_write write_aio pwritev refblock_load'.split(
        ' ',
      );
    for (const event of [...events, 'refblock_update_part', 'flush_to_disk', 'flush_to_os', 'pwritev_done']) {
      const rules = {
        'inject-error.0.event': event,
        'inject-error.0.iotype': 'write',
        'inject-error.1.event': event,
        'inject-error.1.iotype': 'flush',
      };
      await (async () => {
        await using image = await node(under(rules));
        await image.write(mebi + 1000, new Uint8Array(70_000).fill(7));
        await image.flush();
      })().catch((error) => {
        // Closing flushes once more, and may fail too.
        const first = error?.name === 'SuppressedError' ? error.suppressed : error;
        expect(first, event).toMatchObject({ detail: { errno: 'EIO' } });
      });
      await mustRun('qemu-img', ['check', '-r', 'leaks', dir.file('top.qcow2')]);
      await qemu('check top.qcow2');
    }
  });

  it('goes from state to state', async () => {
    await using image = await node(
      under({
        'set-state.0.event': 'pwritev',
        'set-state.0.state': 1,
        'set-state.0.new_state': 2,
        'inject-error.0.event': 'read_aio',
        'inject-error.0.state': 2,
        'inject-error.0.iotype': 'read',
      }),
    );
    const sector = new Uint8Array(512);
    await image.read(64 * 1024, sector);
    await image.write(64 * 1024, sector);
    await expect(image.read(64 * 1024, sector)).rejects.toMatchObject({ code: 'io' });
  });

  it('fails at one sector only', async () => {
    await using image = await openImageFile(
      new NodeOptions([
        ['driver', 'raw'],
        ['file.driver', 'blkdebug'],
        ['file.image.filename', dir.file('base.qcow2')],
        ['file.inject-error.0.event', 'none'],
        ['file.inject-error.0.iotype', 'read'],
        ['file.inject-error.0.sector', 100],
      ]),
    );
    await image.read(0, new Uint8Array(51_200));
    await expect(image.read(51_000, new Uint8Array(1000))).rejects.toMatchObject({
      detail: { errno: 'EIO' },
    });
    await image.read(51_712, new Uint8Array(1000));
  });
});

describe.skipIf(!have('qemu-img'))('throttle', () => {
  it('takes the time that its limits say', async () => {
    const options = 'driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename=top.qcow2';
    const group = (limit: number) => ['--object', `throttle-group,id=g,limits.bps-total=${limit}`];
    const time = async (limit: number) => {
      const began = performance.now();
      const answer = await cow('convert', '--image-opts', '-O', 'raw', ...group(limit), options, 'slow.raw');
      expect(answer).toMatchObject({ code: 0, err: '' });
      return performance.now() - began;
    };
    // A good megabyte is stored; a tenth of a second is free.
    expect(await time(mebi)).toBeGreaterThan(800);
    expect(await time(1024 * mebi)).toBeLessThan(800);
    await qemu('compare -F raw top.qcow2 slow.raw');
  });
});

describe.skipIf(!have('qemu-img'))('http', () => {
  let server: Server;
  let requests = 0;

  beforeAll(async () => {
    server = createServer(async (request, response) => {
      requests++;
      try {
        const file = await open(dir.file(decodeURIComponent(request.url!.slice(1))));
        const bytes = await readFile(file);
        await file.close();
        if (request.headers.authorization !== undefined)
          response.setHeader('x-user', request.headers.authorization);
        const match = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
        response.setHeader('accept-ranges', 'bytes');
        if (!match) {
          response.setHeader('content-length', bytes.length);
          response.end(request.method === 'HEAD' ? undefined : bytes);
          return;
        }
        const [from, to] = [
          Number(match[1]),
          Math.min(Number(match[2] || bytes.length - 1), bytes.length - 1),
        ];
        response.writeHead(206, { 'content-range': `bytes ${from}-${to}/${bytes.length}` });
        response.end(bytes.subarray(from, to + 1));
      } catch {
        response.writeHead(404).end();
      }
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  });
  afterAll(() => new Promise((resolve) => server.close(resolve)));
  const url = (name: string) => `http://127.0.0.1:${(server.address() as AddressInfo).port}/${name}`;

  it('is read as an image, by name, by options and through json:', async () => {
    for (const name of [
      [url('base.qcow2')],
      ['--image-opts', `driver=qcow2,file.driver=http,file.url=${url('base.qcow2')},file.readahead=64k`],
      [`json:{"driver":"qcow2","file":{"driver":"http","url":"${url('base.qcow2')}"}}`],
    ]) {
      const options = name.length > 1 ? [name[0]] : [];
      expect(await cow('convert', ...options, '-O', 'raw', name.at(-1)!, 'fetched.raw')).toMatchObject({
        code: 0,
        err: '',
      });
      await qemu('compare -F raw base.qcow2 fetched.raw');
    }
    expect(requests).toBeGreaterThan(3);
    expect(await cow('info', url('base.qcow2'))).toMatchObject({
      code: 0,
      out: expect.stringContaining(`image: ${url('base.qcow2')}\nfile format: qcow2`),
    });
  });

  it('can be a backing file', async () => {
    await qemu(`create -q -u -f qcow2 -b ${url('base.qcow2')} -F qcow2 over.qcow2 4M`);
    expect(await cow('convert', '-O', 'raw', 'over.qcow2', 'over.raw')).toMatchObject({ code: 0, err: '' });
    await qemu('compare -F raw base.qcow2 over.raw');
  });

  it('with a user and a secret sends them', async () => {
    const secret = ['--object', 'secret,id=s,data=open sesame'];
    const options = `driver=raw,file.driver=http,file.url=${url('base.qcow2')},file.username=ali,file.password-secret=s`;
    expect(await cow('info', ...secret, '--image-opts', options)).toMatchObject({ code: 0 });
    const missing = await cow('info', '--image-opts', options);
    expect(missing).toMatchObject({ code: 1, err: expect.stringContaining("No secret with id 's'") });
  });

  it('is never written', async () => {
    expect(await cow('resize', url('base.qcow2'), '8M')).toMatchObject({
      code: 1,
      err: expect.stringContaining('curl driver does not support writes'),
    });
  });
});
