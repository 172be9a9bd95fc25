import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { openHttpSource } from './http.ts';

const content = Uint8Array.from({ length: 3_000_000 }, (_, index) => (index * 7 + (index >> 8)) % 256);

/** Whether it is `content`; toEqual takes seconds over megabytes. */
function isContent(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, content) === 0;
}

interface Site {
  readonly url: string;
  /** The `range` headers that came, in order. */
  readonly ranges: string[];
  bytes: Uint8Array;
  etag: string | undefined;
  modified: string | undefined;
  /** Answers a request in place of the site, when it returns true. */
  intercept: (request: IncomingMessage, response: ServerResponse, count: number) => boolean;
}

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function site(): Promise<Site> {
  const server = createServer((request, response) => {
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    self.ranges.push(request.headers.range ?? '');
    if (self.intercept(request, response, self.ranges.length)) return;
    const headers: Record<string, string> = {};
    if (self.etag !== undefined) headers.etag = self.etag;
    if (self.modified !== undefined) headers['last-modified'] = self.modified;
    const condition = request.headers['if-range'];
    if (!range || (condition !== undefined && condition !== self.etag)) {
      response.writeHead(200, headers).end(self.bytes);
      return;
    }
    const [first, last] = [Number(range[1]), Math.min(Number(range[2]), self.bytes.length - 1)];
    if (first >= self.bytes.length) {
      response.writeHead(416, { 'content-range': `bytes */${self.bytes.length}` }).end();
      return;
    }
    headers['content-range'] = `bytes ${first}-${last}/${self.bytes.length}`;
    headers['content-length'] = String(last - first + 1);
    response.writeHead(206, headers).end(self.bytes.subarray(first, last + 1));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  const self: Site = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/disk.img`,
    ranges: [],
    bytes: content,
    etag: '"one"',
    modified: undefined,
    intercept: () => false,
  };
  return self;
}

async function readAll(
  source: { size: number; read(at: number, into: Uint8Array): Promise<void> },
  step: number,
) {
  const all = new Uint8Array(source.size);
  for (let at = 0; at < all.length; at += step) await source.read(at, all.subarray(at, at + step));
  return all;
}

describe('openHttpSource', () => {
  it('reads small, large, odd and concurrent ranges as they are', async () => {
    const { url } = await site();
    await using source = await openHttpSource(url);
    expect(source.size).toBe(content.length);
    expect(isContent(await readAll(source, 9_999))).toBe(true);
    expect(isContent(await readAll(source, 2_500_000))).toBe(true);
    const places = [0, 1, 65_535, 65_536, 999_999, 2_999_990, 131_000, 131_000];
    await Promise.all(
      places.map(async (at) => {
        const piece = new Uint8Array(10);
        await source.read(at, piece);
        expect(piece).toEqual(content.subarray(at, at + 10));
      }),
    );
    expect(await source.extent(5)).toEqual({ offset: 5, length: content.length - 5, data: true });
    await expect(source.read(content.length - 1, new Uint8Array(2))).rejects.toMatchObject({
      code: 'out-of-range',
    });
  });

  it('reads ahead for a sequential reader, asks once for what is on its way, and keeps its cache small', async () => {
    const one = await site();
    await using source = await openHttpSource(one.url);
    await readAll(source, 4096);
    expect(one.ranges.length).toBeLessThan(12);

    const two = await site();
    await using other = await openHttpSource(two.url);
    const piece = () => other.read(1_000_000, new Uint8Array(100));
    await Promise.all([piece(), piece(), piece()]);
    expect(two.ranges.length).toBe(2);

    const three = await site();
    await using small = await openHttpSource(three.url, { cacheBytes: 65_536 });
    expect(isContent(await readAll(small, 30_000))).toBe(true);
    const before = three.ranges.length;
    await small.read(0, new Uint8Array(1));
    expect(three.ranges.length).toBe(before + 1);
  });

  it('reads an empty file', async () => {
    const server = await site();
    server.bytes = new Uint8Array(0);
    await using source = await openHttpSource(server.url);
    expect(source.size).toBe(0);
  });

  it('refuses what it cannot read, in so many words', async () => {
    const server = await site();
    const answer = (status: number, headers: Record<string, string> = {}, body = '') => {
      server.intercept = (_, response) => {
        response.writeHead(status, headers).end(body);
        return true;
      };
      return expect(openHttpSource(server.url, { retries: 0 })).rejects;
    };
    await answer(200, {}, 'everything').toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('does not serve byte ranges'),
    });
    await answer(404).toMatchObject({ code: 'not-found', detail: { status: 404 } });
    await answer(403).toMatchObject({ code: 'denied' });
    await answer(418).toMatchObject({ code: 'io', detail: { status: 418 } });
    await answer(206, { 'content-range': 'bytes 0-0/*' }, 'x').toMatchObject({ code: 'unsupported' });
    await answer(206, { 'content-range': 'bytes 0-0/99999999999999999999' }, 'x').toMatchObject({
      code: 'unsupported',
    });
    await answer(206, { 'content-range': 'bytes 0-0/5', 'content-encoding': 'br' }, 'x').toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('br'),
    });
    await answer(503).toMatchObject({ code: 'io', message: expect.stringContaining('503') });
    await expect(openHttpSource('file:///etc/passwd')).rejects.toMatchObject({ code: 'bad-argument' });
  });

  it('says that nobody listens', async () => {
    const server = await site();
    await closers.pop()!();
    await expect(openHttpSource(server.url, { retries: 1, retryDelay: 1 })).rejects.toMatchObject({
      code: 'io',
      message: expect.stringContaining('cannot be reached'),
    });
  });

  it('tries again after a 5xx and resumes after a lost connection, up to its limit', async () => {
    const server = await site();
    await using source = await openHttpSource(server.url, { retries: 3, retryDelay: 1 });
    let failures = 0;
    server.intercept = (request, response) => {
      failures++;
      if (failures === 1) response.writeHead(503).end();
      else if (failures === 2) request.socket.destroy();
      else if (failures === 3) {
        const first = Number(/=(\d+)/.exec(request.headers.range!)![1]);
        response.writeHead(206, {
          'content-range': `bytes ${first}-${content.length - 1}/${content.length}`,
          'content-length': String(content.length - first),
          etag: server.etag,
        });
        response.write(content.subarray(first, first + 100_000), () => request.socket.destroy());
      } else return false;
      return true;
    };
    const all = new Uint8Array(content.length);
    await source.read(0, all);
    expect(isContent(all)).toBe(true);
    expect(server.ranges.at(-1)).toMatch(/^bytes=[1-9]/);

    let asked = 0;
    server.intercept = (_, response) => {
      asked++;
      response.writeHead(500).end();
      return true;
    };
    await expect(source.read(0, all)).rejects.toMatchObject({ code: 'io' });
    expect(asked).toBe(4);
  });

  it('gives up on a server that falls silent', async () => {
    const server = await site();
    await using source = await openHttpSource(server.url, { retries: 1, retryDelay: 1, patience: 50 });
    server.intercept = () => true;
    await expect(source.read(0, new Uint8Array(10))).rejects.toMatchObject({ code: 'io' });
  });

  it('notices another file in its place: by its tag, its date, its size', async () => {
    for (const change of [
      (server: Site) => {
        server.etag = '"two"';
      },
      (server: Site) => {
        server.bytes = content.subarray(1);
      },
      (server: Site) => {
        server.etag = 'W/"weak"';
      },
    ]) {
      const server = await site();
      await using source = await openHttpSource(server.url);
      change(server);
      await expect(source.read(0, new Uint8Array(10))).rejects.toMatchObject({ code: 'changed' });
    }
    const dated = await site();
    dated.etag = undefined;
    dated.modified = 'Mon, 02 Jan 2006 15:04:05 GMT';
    await using source = await openHttpSource(dated.url);
    await source.read(0, new Uint8Array(10));
    dated.modified = 'Tue, 03 Jan 2006 15:04:05 GMT';
    await expect(source.read(1_000_000, new Uint8Array(10))).rejects.toMatchObject({ code: 'changed' });
  });

  it('notices that the tag is gone by which a file was known', async () => {
    const server = await site();
    await using source = await openHttpSource(server.url);
    server.intercept = (request, response) => {
      const [, first, last] = /(\d+)-(\d+)/.exec(request.headers.range ?? '')!.map(Number);
      const headers = { 'content-range': `bytes ${first}-${last}/${content.length}` };
      response.writeHead(206, headers).end(new Uint8Array(last - first + 1));
      return true;
    };
    await expect(source.read(0, new Uint8Array(10))).rejects.toMatchObject({ code: 'changed' });
  });

  it('asks on, without a pause, where a server sends less than it was asked for', async () => {
    const server = await site();
    await using source = await openHttpSource(server.url, { retries: 0, retryDelay: 1e9 });
    server.intercept = (request, response) => {
      const [, first, last] = /(\d+)-(\d+)/.exec(request.headers.range ?? '')!.map(Number);
      const end = Math.min(last, first + 99_999);
      const headers = { 'content-range': `bytes ${first}-${end}/${content.length}`, etag: server.etag };
      response.writeHead(206, headers).end(content.subarray(first, end + 1));
      return true;
    };
    expect(isContent(await readAll(source, content.length))).toBe(true);
    expect(server.ranges.length).toBe(31);
  });

  it('goes on as long as anything comes, however often the connection is lost', async () => {
    const server = await site();
    await using source = await openHttpSource(server.url, { retries: 1, retryDelay: 1 });
    server.intercept = (request, response) => {
      const [, first, last] = /(\d+)-(\d+)/.exec(request.headers.range ?? '')!.map(Number);
      const headers = { 'content-range': `bytes ${first}-${last}/${content.length}`, etag: server.etag };
      response
        .writeHead(206, headers)
        .write(content.subarray(first, Math.min(last + 1, first + 400_000)), () => response.destroy());
      return true;
    };
    expect(isContent(await readAll(source, content.length))).toBe(true);
  });

  it('says in a page what a server of another origin hides from it', async () => {
    vi.stubGlobal('location', { origin: 'https://page.example' });
    try {
      const hidden = async () => new Response(null, { status: 206 });
      await expect(openHttpSource('http://disks.example/a', { fetch: hidden })).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining('Access-Control-Expose-Headers'),
      });
      const refused = () => Promise.reject(new TypeError('Failed to fetch'));
      await expect(
        openHttpSource('http://disks.example/a', { fetch: refused, retries: 0 }),
      ).rejects.toMatchObject({
        code: 'io',
        message: expect.stringContaining('CORS'),
      });
      // A header that is not allowed everywhere is not sent there: the tag is compared all the same.
      const server = await site();
      const sent: (string | undefined)[] = [];
      server.intercept = (request) => {
        sent.push(request.headers['if-range'] as string | undefined);
        return false;
      };
      await using source = await openHttpSource(server.url);
      await source.read(0, new Uint8Array(10));
      expect(sent).toEqual([undefined, undefined]);
      server.etag = '"two"';
      await expect(source.read(2_000_000, new Uint8Array(10))).rejects.toMatchObject({ code: 'changed' });
    } finally {
      vi.unstubAllGlobals();
    }
  });

  it('refuses bytes that it did not ask for', async () => {
    const server = await site();
    await using source = await openHttpSource(server.url);
    server.intercept = (_, response) => {
      const headers = { 'content-range': `bytes 7-16/${content.length}`, etag: server.etag };
      response.writeHead(206, headers).end('0123456789');
      return true;
    };
    await expect(source.read(0, new Uint8Array(10))).rejects.toMatchObject({ code: 'io' });
  });

  it('ends at once when it is closed or aborted', async () => {
    const server = await site();
    const controller = new AbortController();
    const source = await openHttpSource(server.url, { signal: controller.signal });
    const other = await openHttpSource(server.url);
    server.intercept = () => true;
    const reads = [source, other].map((each) => each.read(0, new Uint8Array(10)));
    setTimeout(() => {
      controller.abort('enough');
      void other[Symbol.asyncDispose]();
    }, 20);
    const [aborted, closed] = await Promise.allSettled(reads);
    expect(aborted).toEqual({ status: 'rejected', reason: 'enough' });
    expect(closed).toMatchObject({ status: 'rejected', reason: { code: 'aborted', path: server.url } });
  });
});
