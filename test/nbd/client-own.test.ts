import { randomFillSync } from 'node:crypto';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun } from '../support/programs.ts';
import { openStore } from './client-support.ts';
import { builtServer } from './support.ts';

const size = 4 * 1024 * 1024;

describe.skipIf(!have('qemu-img'))('our client and cow-nbd', () => {
  const server = builtServer();

  it.each(['raw', 'qcow2'])('give space back, and keep what is written (%s)', async (format) => {
    const image = server.file(`own.${format}`);
    await mustRun('qemu-img', ['create', '-q', '-f', format, image, String(size)]);
    const content = randomFillSync(new Uint8Array(size));
    await using running = await server.start(['-t', '-e', '8', '--discard=unmap', '-f', format, image]);
    {
      await using store = await openStore(running.socket);
      for (let at = 0; at < size; at += 200_000)
        await store.write(at, content.subarray(at, Math.min(size, at + 200_000)));
      await store.flush();
      const before = statSync(image).blocks;
      // Punched holes come to the server as such: the file gets smaller. Kept ones keep their space.
      await store.zero(1_048_576, 2_097_152, { punch: true });
      content.fill(0, 1_048_576, 3_145_728);
      await store.flush();
      const after = statSync(image).blocks;
      // But for what the file system may need to keep account of the hole.
      expect(before - after).toBeGreaterThanOrEqual((2_097_152 - 16_384) / 512);
      await store.zero(100_001, 300_000, { punch: false });
      content.fill(0, 100_001, 400_001);
      await store.flush();
      expect(statSync(image).blocks).toBeGreaterThanOrEqual(after - 16_384 / 512);
      const extent = await store.extent(1_048_576);
      expect(extent).toEqual({ offset: 1_048_576, length: 2_097_152, data: false });
      const read = new Uint8Array(size);
      await store.read(0, read);
      expect(Buffer.compare(read, content)).toBe(0);
    }
    expect(await running.stop()).toBe(0);
    const plain = server.file('own.plain');
    await mustRun('qemu-img', ['convert', '-f', format, '-O', 'raw', image, plain]);
    expect(Buffer.compare(readFileSync(plain), content)).toBe(0);
  });

  it('agree on a key beforehand', async () => {
    const image = server.file('own-psk.raw');
    writeFileSync(image, randomFillSync(Buffer.alloc(size)));
    const dir = server.file('psk');
    mkdirSync(dir);
    writeFileSync(`${dir}/keys.psk`, `alice:${'0123456789abcdef'.repeat(2)}\n`);
    const object = (endpoint: string, user = '') =>
      `tls-creds-psk,id=t,dir=${dir},endpoint=${endpoint}${user}`;
    await using running = await server.start([
      ...['-t', '-e', '8', '--object', object('server'), '--tls-creds', 't', '-f', 'raw', image],
    ]);
    const name = `driver=nbd,path=${running.socket},tls-creds=t`;
    const copy = server.file('own-psk.copy');
    const convert = async (...args: string[]) => {
      const context = testContext({ program: 'qemu-img' });
      const code = await cowImg(['convert', ...args, '-O', 'raw', copy], context);
      return { code, err: context.err() };
    };
    const known = ['--object', object('client', ',username=alice'), '--image-opts', name];
    expect(await convert(...known)).toEqual({ code: 0, err: '' });
    expect(readFileSync(copy).equals(readFileSync(image))).toBe(true);
    expect((await convert('-f', 'raw', running.uri)).code).toBe(1);
  });
});
