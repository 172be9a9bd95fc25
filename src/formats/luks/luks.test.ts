import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it, vi } from 'vitest';
import { have, mustRun, run, tempDir } from '../../../test/support/programs.ts';
import { encodeHeader, type LuksHeader, parseHeader } from '../../crypto/luks/header.ts';
import { primitives } from '../../crypto/primitives.ts';
import { createImage, openImage, openLayer } from '../../image/open.ts';
import { openFileStore } from '../../node.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { luks } from './index.ts';

const passphrase = 'correct horse';
const secret = async (id: string) => new TextEncoder().encode(id === 's' ? passphrase : 'wrong');
const opening = { format: 'luks', layerOptions: { 'key-secret': 's' }, secret };
const options = { 'key-secret': 's', 'iter-time': 0, 'cipher-alg': 'aes-128' };

async function fresh(size = 1024 * 1024): Promise<MemoryStore> {
  const store = new MemoryStore({ name: 'image' });
  await createImage(store, 'luks', size, options, { secret });
  return store;
}

describe.skipIf(!have('cryptsetup'))('cryptsetup', () => {
  const ciphers = [
    ['aes-xts-plain64', 512, 'sha512'],
    ['aes-xts-plain', 256, 'sha1'],
    ['aes-cbc-essiv:sha256', 256, 'sha256'],
    ['aes-cbc-plain64', 128, 'ripemd160'],
  ] as const;

  it.each(ciphers)(
    'makes %s with a key of %s bits and %s, which reads as QEMU reads it',
    async (cipher, bits, hash) => {
      await using dir = await tempDir();
      const file = dir.file('image');
      const random = new Uint8Array(6 * 1024 * 1024).map((_, at) => (at * 2654435761) >>> 24);
      await writeFile(file, random);
      const how = ['--type', 'luks1', '--cipher', cipher, '--key-size', String(bits), '--hash', hash];
      const format = ['luksFormat', '-q', ...how, '--iter-time', '20', file, '-d', '-'];
      await mustRun('cryptsetup', format, { input: passphrase });
      await using image = await openImage(await openFileStore(file), opening);
      const content = new Uint8Array(image.size);
      await image.read(0, content);
      const named = `driver=luks,file.filename=${file},key-secret=s`;
      const object = ['--object', `secret,id=s,data=${passphrase}`];
      await mustRun('qemu-img', ['convert', ...object, '--image-opts', named, '-O', 'raw', dir.file('raw')]);
      expect(Buffer.from(content).equals(await readFile(dir.file('raw')))).toBe(true);
    },
  );

  it('opens what is made here', async () => {
    await using dir = await tempDir();
    const file = dir.file('image');
    await writeFile(file, (await fresh()).toBytes());
    const test = ['open', '--test-passphrase', file, '-d', '-'];
    expect(await run('cryptsetup', test, { input: passphrase })).toMatchObject({ code: 0 });
    expect((await run('cryptsetup', test, { input: 'wrong' })).code).not.toBe(0);
    expect(await mustRun('cryptsetup', ['luksDump', file])).toContain('Cipher mode:   \txts-plain64');
  });
});

it.skipIf(!have('qemu-img'))('grows by zeroes that QEMU reads as such', async () => {
  await using dir = await tempDir();
  const file = dir.file('image');
  const store = await fresh(512);
  {
    await using image = await openImage(store, { ...opening, writable: true });
    await image.write(0, new Uint8Array(512).fill(7));
    await image.resize(3 * 1024 * 1024 + 512);
  }
  await writeFile(file, store.toBytes());
  const expected = new Uint8Array(3 * 1024 * 1024 + 512).fill(7, 0, 512);
  await writeFile(dir.file('model'), expected);
  const object = ['--object', `secret,id=s,data=${passphrase}`];
  const names = [
    `driver=luks,file.filename=${file},key-secret=s`,
    `driver=raw,file.filename=${dir.file('model')}`,
  ];
  expect(await mustRun('qemu-img', ['compare', ...object, '--image-opts', ...names])).toBe(
    'Images are identical.\n',
  );
});

describe('a header that lies', () => {
  const lies: readonly (readonly [string, (header: LuksHeader) => LuksHeader, object])[] = [
    ['stripes of 2^31', slot(0, { stripes: 2 ** 31 }), { message: /stripes -2147483648 != 4000/ }],
    ['overlapping slots', slot(1, { keyOffset: 8 }), { message: /overlapping in the header/ }],
    ['a slot over the header', slot(0, { keyOffset: 1 }), { message: /overlapping with the LUKS header/ }],
    ['a slot over the payload', slot(7, { keyOffset: 1900 }), { message: /encrypted payload/ }],
    ['no iterations', slot(0, { iterations: 0 }), { message: /iteration count is zero/ }],
    ['2^32 - 1 iterations', slot(0, { iterations: 0xffff_ffff }), { code: 'corrupt', field: 'iterations' }],
    [
      'a digest of 2^32 - 1 iterations',
      (h) => ({ ...h, digestIterations: 0xffff_ffff }),
      { code: 'corrupt' },
    ],
    ['a huge key', (h) => ({ ...h, keyBytes: 0xffff_fff0 }), { code: 'corrupt' }],
    ['another cipher', (h) => ({ ...h, cipherName: 'serpent' }), { code: 'unsupported', message: /serpent/ }],
    ['another hash', (h) => ({ ...h, hashSpec: 'whirlpool' }), { code: 'unsupported', message: /whirlpool/ }],
    ['no generator', (h) => ({ ...h, cipherMode: 'ecb' }), { message: /Unexpected cipher mode/ }],
  ];

  it.each(lies)('%s is a typed error', async (_, change, expected) => {
    const bytes = (await fresh()).toBytes();
    bytes.set(encodeHeader(change(parseHeader(bytes))));
    await expect(openImage(new MemoryStore({ bytes }), opening)).rejects.toMatchObject(
      'message' in expected ? { message: expect.stringMatching(expected.message as RegExp) } : expected,
    );
  });

  it('costs nobody anything: no key is derived, little is read, nothing is written', async () => {
    const derived = vi.spyOn(primitives(), 'pbkdf2');
    try {
      for (const [, change] of lies) {
        const bytes = (await fresh()).toBytes();
        derived.mockClear();
        bytes.set(encodeHeader(change(parseHeader(bytes))));
        const store = new MemoryStore({ bytes });
        const reading = vi.spyOn(store, 'read');
        const writing = vi.spyOn(store, 'write');
        await expect(openImage(store, { ...opening, writable: true })).rejects.toThrow();
        expect(derived).not.toHaveBeenCalled();
        expect(writing).not.toHaveBeenCalled();
        const read = reading.mock.calls.reduce((sum, [, into]) => sum + into.length, 0);
        expect(read).toBeLessThan(64 * 1024);
      }
    } finally {
      derived.mockRestore();
    }
  });

  it('is one where it is cut short', async () => {
    const bytes = (await fresh()).toBytes();
    const { payloadOffset } = parseHeader(bytes);
    for (const length of [0, 7, 591, 592, 4096, 100_000, payloadOffset * 512 - 1]) {
      const cut = new MemoryStore({ bytes: bytes.slice(0, length) });
      await expect(openImage(cut, opening)).rejects.toMatchObject({ name: 'DiskError' });
    }
  });

  function slot(index: number, change: Partial<LuksHeader['slots'][number]>) {
    return (header: LuksHeader): LuksHeader => ({
      ...header,
      slots: header.slots.map((old, at) => (at === index ? { ...old, ...change } : old)),
    });
  }
});

it('asks for the passphrase, and says so in one line when it is wrong', async () => {
  const store = await fresh();
  const wrong = { ...opening, layerOptions: { 'key-secret': 'other' } };
  await expect(openImage(store, wrong)).rejects.toMatchObject({
    code: 'denied',
    message: 'Invalid password, cannot unlock any keyslot',
  });
  await expect(openImage(store, { format: 'luks' })).rejects.toMatchObject({
    message: "Parameter 'key-secret' is required for cipher",
  });
  const { layer } = await openLayer(store, { format: 'luks', metadataOnly: true });
  expect(await layer.details()).toMatchObject({ encrypted: true, formatSpecific: { type: 'luks' } });
});

it('derives as many keys for a passphrase of any slot, and for a wrong one', async () => {
  const store = await fresh();
  const words: Record<string, string> = { s: passphrase, a: 'second', b: 'third', wrong: 'none' };
  const known = async (id: string) => new TextEncoder().encode(words[id]);
  for (const [id, keyslot] of [
    ['a', 3],
    ['b', 7],
  ] as const) {
    const wish = { state: 'active', 'new-secret': id, keyslot, 'iter-time': 0 };
    await luks.amend!(store, wish, { secret: known, keySecret: 's' });
  }
  const derived = vi.spyOn(primitives(), 'pbkdf2');
  const counts: number[] = [];
  try {
    for (const id of ['s', 'a', 'b', 'wrong']) {
      derived.mockClear();
      const opened = openImage(new MemoryStore({ bytes: store.toBytes() }), {
        ...opening,
        layerOptions: { 'key-secret': id },
        secret: known,
      });
      if (id === 'wrong') await expect(opened).rejects.toMatchObject({ code: 'denied' });
      else await (await opened)[Symbol.asyncDispose]();
      counts.push(derived.mock.calls.length);
      const iterations = derived.mock.calls.reduce((sum, [, , , count]) => sum + count, 0);
      counts.push(iterations);
    }
  } finally {
    derived.mockRestore();
  }
  // Three slots, and the digest of the key that each would give.
  expect(counts).toEqual([6, 6000, 6, 6000, 6, 6000, 6, 6000]);
});
