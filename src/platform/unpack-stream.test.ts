import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { have } from '../../test/support/programs.ts';
import { type Compression, compressionOf } from '../codecs/compression.ts';
import { unpackStream } from './unpack-stream.ts';

const content = Buffer.concat([
  randomBytes(300_000),
  Buffer.alloc(2_000_000),
  Buffer.from('cow '.repeat(100_000)),
  Buffer.alloc(4),
  randomBytes(3),
]);

function packed(program: string, bytes: Uint8Array, ...args: string[]): Buffer {
  const { stdout, status, stderr } = spawnSync(program, ['-c', ...args], {
    input: bytes,
    maxBuffer: 64 * 1024 * 1024,
  });
  if (status !== 0) throw new Error(`${program}: ${stderr}`);
  return stdout;
}

async function* inChunks(bytes: Uint8Array, chunk: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += chunk) yield bytes.subarray(at, at + chunk);
}

async function digest(bytes: Uint8Array, compression: Compression, chunk = 65_536): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of unpackStream(compression, inChunks(bytes, chunk), 'x')) hash.update(piece);
  return hash.digest('hex');
}

const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

describe.each(['gzip', 'xz', 'zstd', 'bzip2'] as const)('unpacking what %s packed', (program) => {
  const test = it.skipIf(!have(program));

  test('gives the bytes, also of several members and in small chunks', async () => {
    const one = packed(program, content);
    expect(compressionOf(one)).toBe(program);
    expect(await digest(one, program, 9_973)).toBe(sha(content));
    const two = Buffer.concat([one, packed(program, Buffer.from('the end'))]);
    expect(await digest(two, program)).toBe(sha(Buffer.concat([content, Buffer.from('the end')])));
    expect(await digest(packed(program, new Uint8Array(0)), program)).toBe(sha(new Uint8Array(0)));
  });

  test('refuses what is cut short, damaged, or followed by something else', async () => {
    const whole = packed(program, content);
    for (const length of [whole.length - 1, whole.length - 9, whole.length - 200_000, 5]) {
      await expect(digest(whole.subarray(0, length), program)).rejects.toMatchObject({ code: 'corrupt' });
    }
    // A zstd file from a pipe has its content's checksum; all the others have one always.
    const damaged = Buffer.from(whole);
    damaged[150_000] ^= 1;
    await expect(digest(damaged, program)).rejects.toMatchObject({
      code: 'corrupt',
      offset: expect.any(Number),
    });
    const followed = Buffer.concat([whole, Buffer.from('something else')]);
    await expect(digest(followed, program)).rejects.toMatchObject({ code: 'corrupt' });
  });
});

describe.skipIf(!have('xz'))('xz', () => {
  it('in blocks, and padded between streams', async () => {
    const blocks = packed('xz', content, '--block-size=100000');
    const padded = Buffer.concat([blocks, Buffer.alloc(8), packed('xz', content, '--check=crc32')]);
    expect(await digest(padded, 'xz')).toBe(sha(Buffer.concat([content, content])));
  });

  it('with SHA-256 checks is refused by name, never left unchecked', async () => {
    await expect(digest(packed('xz', content, '--check=sha256'), 'xz')).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('xz -d'),
    });
  });
});

it.skipIf(!have('bzip2'))('bzip2 at every level', async () => {
  for (const level of ['-1', '-5', '-9']) {
    expect(await digest(packed('bzip2', content, level), 'bzip2')).toBe(sha(content));
  }
});
