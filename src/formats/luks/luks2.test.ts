import { createCipheriv, createDecipheriv } from 'node:crypto';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import {
  copyBytes,
  type Luks2Json,
  makeLuks2,
  payloadAt,
  writeCopies,
  writeCopy,
} from '../../../test/support/luks2.ts';
import { have, mustRun, run, tempDir } from '../../../test/support/programs.ts';
import { primitives, registerPrimitives } from '../../crypto/primitives.ts';
import { openImage, openLayer } from '../../image/open.ts';
import { openFileStore } from '../../node.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { luks } from './index.ts';

const passphrase = 'correct horse';
const secret = async (id: string) =>
  new TextEncoder().encode({ s: passphrase, n: 'battery staple' }[id] ?? 'wrong');
const opening = (id = 's') => ({ format: 'luks', layerOptions: { 'key-secret': id }, secret });

/** By OpenSSL's own XTS, sector by sector. */
function byOpenssl(key: Buffer, bytes: Uint8Array, sectorBytes: number, encrypt = false): Buffer {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += sectorBytes) {
    const iv = Buffer.alloc(16);
    iv.writeBigUInt64LE(BigInt(at / 512));
    const name = `aes-${key.length * 4}-xts`;
    const cipher = encrypt ? createCipheriv(name, key, iv) : createDecipheriv(name, key, iv);
    pieces.push(cipher.update(bytes.subarray(at, at + sectorBytes)));
  }
  return Buffer.concat(pieces);
}

describe.skipIf(!have('cryptsetup'))('cryptsetup', () => {
  const slow = ['--pbkdf-force-iterations', '4', '--pbkdf-memory', '1024', '--pbkdf-parallel', '2'];
  const kinds = [
    ['pbkdf2', 512, 256, ['--pbkdf-force-iterations', '1000', '--hash', 'sha512']],
    ['pbkdf2', 4096, 512, ['--pbkdf-force-iterations', '1000', '--hash', 'sha1']],
    ['argon2id', 4096, 512, slow],
    ['argon2i', 1024, 256, slow],
  ] as const;

  it.each(kinds)(
    'makes %s slots and sectors of %s bytes, keys of %s bits',
    async (kdf, sector, bits, how) => {
      await using dir = await tempDir();
      const file = dir.file('image');
      await writeFile(file, '');
      await truncate(file, 17 * 1024 * 1024);
      const kind = [
        '--type',
        'luks2',
        '--pbkdf',
        kdf,
        '--key-size',
        String(bits),
        '--sector-size',
        String(sector),
      ];
      const format = ['luksFormat', '-q', ...kind, ...how, file, '-d', '-'];
      await mustRun('cryptsetup', format, { input: passphrase });
      await writeFile(dir.file('new'), 'battery staple');
      await mustRun(
        'cryptsetup',
        ['luksAddKey', '-q', '--pbkdf', kdf, ...how, file, dir.file('new'), '-d', '-'],
        {
          input: passphrase,
        },
      );
      const dump = [
        'luksDump',
        '-q',
        '--dump-volume-key',
        '--volume-key-file',
        dir.file('key'),
        '-d',
        '-',
        file,
      ];
      await mustRun('cryptsetup', dump, { input: passphrase });
      const key = await readFile(dir.file('key'));
      const content = Buffer.from(new Uint8Array(1024 * 1024).map((_, at) => (at * 2654435761) >>> 24));
      {
        const store = await openFileStore(file, { writable: true });
        await store.write(16 * 1024 * 1024, byOpenssl(key, content, sector, true));
        await using image = await openImage(store, { ...opening(), writable: true });
        const read = new Uint8Array(image.size);
        await image.read(0, read);
        expect(content.equals(read)).toBe(true);
        await image.write(5000, content.subarray(0, 9000));
      }
      content.copyWithin(5000, 0, 9000);
      const payload = (await readFile(file)).subarray(16 * 1024 * 1024);
      expect(byOpenssl(key, payload, sector).equals(content)).toBe(true);
      {
        await using image = await openImage(await openFileStore(file), opening('n'));
        expect(image.size).toBe(content.length);
      }
      await expect(openImage(await openFileStore(file), opening('w'))).rejects.toMatchObject({
        code: 'denied',
      });
      // What was written changed no header.
      const test = ['open', '-v', '--test-passphrase', file, '-d', '-'];
      expect((await run('cryptsetup', test, { input: passphrase })).stdout).toContain('Key slot 0 unlocked');
    },
  );

  it('opens what the tests below change', async () => {
    await using dir = await tempDir();
    const { bytes } = await makeLuks2(new TextEncoder().encode(passphrase), 4096);
    await writeFile(dir.file('image'), bytes);
    const test = ['open', '--test-passphrase', dir.file('image'), '-d', '-'];
    expect(await run('cryptsetup', test, { input: passphrase })).toMatchObject({ code: 0 });
  });
});

describe('a LUKS2 header', () => {
  let whole: Awaited<ReturnType<typeof makeLuks2>>;
  beforeAll(async () => {
    whole = await makeLuks2(new TextEncoder().encode(passphrase), 8192);
  });
  const opens = (bytes: Uint8Array) => openImage(new MemoryStore({ bytes, name: 'image' }), opening());

  it('is read from the newer of its whole copies', async () => {
    const bytes = whole.bytes.slice();
    const other = structuredClone(whole.json);
    other.segments['0'].offset = String(payloadAt + 4096);
    await writeCopy(bytes, 1, other, 4);
    expect((await opens(bytes.slice())).size).toBe(4096);
    // A checksum that does not fit, in either of them.
    const second = bytes.slice();
    second[copyBytes + 5000] ^= 1;
    expect((await opens(second)).size).toBe(8192);
    const first = bytes.slice();
    first.fill(0, 0, 512);
    expect((await opens(first)).size).toBe(4096);
    first[copyBytes + 449] ^= 1;
    await expect(opens(first)).rejects.toMatchObject({ code: 'corrupt' });
  });

  const changes: readonly (readonly [string, (json: Luks2Json) => void, object])[] = [
    [
      'another cipher',
      (j) => (j.segments['0'].encryption = 'serpent-xts-plain64'),
      { code: 'unsupported', message: /serpent/ },
    ],
    [
      'another mode',
      (j) => (j.segments['0'].encryption = 'aes-cbc-essiv:sha256'),
      { code: 'unsupported', message: /aes-cbc-essiv/ },
    ],
    [
      'integrity',
      (j) => (j.segments['0'].integrity = { type: 'hmac(sha256)' }),
      { code: 'unsupported', message: /integrity/ },
    ],
    [
      'a plain segment',
      (j) => (j.segments['0'].type = 'linear'),
      { code: 'unsupported', message: /'linear'/ },
    ],
    [
      'two segments',
      (j) => (j.segments['1'] = j.segments['0']),
      { code: 'unsupported', message: /2 data segments/ },
    ],
    [
      'a requirement',
      (j) => (j.config.requirements = { mandatory: ['online-reencrypt'] }),
      { code: 'unsupported', message: /online-reencrypt/ },
    ],
    [
      'a reencryption',
      (j) => (j.keyslots['1'] = { type: 'reencrypt' }),
      { code: 'unsupported', message: /reencrypted/ },
    ],
    [
      'another derivation',
      (j) => (j.keyslots['0'].kdf.type = 'scrypt'),
      { code: 'unsupported', message: /'scrypt'/ },
    ],
    ['another slot', (j) => (j.keyslots['0'].type = 'tpm'), { code: 'unsupported', message: /'tpm'/ }],
    [
      'another hash',
      (j) => (j.keyslots['0'].af.hash = 'whirlpool'),
      { code: 'unsupported', message: /whirlpool/ },
    ],
    ['another digest', (j) => (j.digests['0'].type = 'blake'), { code: 'unsupported', message: /'blake'/ }],
    [
      'iterations',
      (j) => (j.keyslots['0'].kdf.iterations = 2 ** 32 - 1),
      { code: 'corrupt', field: 'iterations' },
    ],
    [
      'digest iterations',
      (j) => (j.digests['0'].iterations = 2 ** 31),
      { code: 'corrupt', field: 'iterations' },
    ],
    ['memory', (j) => argon2(j, { memory: 2 ** 22, time: 1 }), { code: 'corrupt', field: 'memory' }],
    ['time', (j) => argon2(j, { memory: 1024, time: 2 ** 31 }), { code: 'corrupt', field: 'time' }],
    ['memory below its least', (j) => argon2(j, { memory: 1, time: 1 }), { code: 'corrupt' }],
    ['stripes', (j) => (j.keyslots['0'].af.stripes = 2 ** 31), { code: 'corrupt', message: /stripes/ }],
    ['a small area', (j) => (j.keyslots['0'].area.size = '4096'), { code: 'corrupt' }],
    ['an area over the header', (j) => (j.keyslots['0'].area.offset = '4096'), { code: 'corrupt' }],
    ['an area past its place', (j) => (j.keyslots['0'].area.offset = String(payloadAt)), { code: 'corrupt' }],
    [
      'overlapping areas',
      (j) => (j.keyslots['1'] = j.keyslots['0']),
      { code: 'corrupt', message: /key slot 1 lies over/ },
    ],
    ['a payload over the header', (j) => (j.segments['0'].offset = '4096'), { code: 'corrupt' }],
    [
      'a payload elsewhere',
      (j) => (j.segments['0'].offset = '0'),
      { code: 'corrupt', message: /another file/ },
    ],
    ['a huge offset', (j) => (j.segments['0'].offset = '18446744073709551104'), { code: 'corrupt' }],
    ['sectors of 3 bytes', (j) => (j.segments['0'].sector_size = 3), { code: 'corrupt' }],
    ['no digest', (j) => (j.digests = {}), { code: 'corrupt' }],
    ['another size of JSON', (j) => (j.config.json_size = '4096'), { code: 'corrupt' }],
    [
      'slots without end',
      (j) => (j.keyslots = Object.fromEntries(Array.from({ length: 33 }, (_, n) => [n, {}]))),
      { code: 'corrupt' },
    ],
  ];

  function argon2(json: Luks2Json, cost: { readonly memory: number; readonly time: number }): void {
    const { salt } = json.keyslots['0'].kdf;
    json.keyslots['0'].kdf = { type: 'argon2id', salt, cpus: 1, ...cost };
  }

  it.each(changes)('is refused by name: %s', async (_, change, expected) => {
    const bytes = whole.bytes.slice();
    const json = structuredClone(whole.json);
    change(json);
    await writeCopies(bytes, json);
    const like =
      'message' in expected
        ? { ...expected, message: expect.stringMatching(expected.message as RegExp) }
        : expected;
    await expect(opens(bytes)).rejects.toMatchObject({ name: 'DiskError', ...like });
  });

  it('is refused where its JSON is none, or nested without end', async () => {
    for (const json of ['{', `${'['.repeat(6000)}`, 'null', '[]', '"x"']) {
      const bytes = whole.bytes.slice();
      await writeCopies(bytes, json);
      await expect(opens(bytes)).rejects.toMatchObject({ name: 'DiskError', code: 'corrupt' });
    }
    for (const length of [8, 592, 4096, copyBytes, 2 * copyBytes, 3 * copyBytes]) {
      await expect(opens(whole.bytes.slice(0, length))).rejects.toMatchObject({ name: 'DiskError' });
    }
  });

  it('is refused where its copies say that they are larger than any, and little is read', async () => {
    for (const size of [2n ** 63n, 2n ** 40n, 2n ** 32n, 4096n, 0n]) {
      const bytes = whole.bytes.slice();
      const view = new DataView(bytes.buffer);
      for (const at of [0, copyBytes]) view.setBigUint64(at + 8, size);
      // A file as large as they say: what is not there would be refused anyhow.
      const store = new MemoryStore({ bytes, size: 2 ** 45 });
      const reading = vi.spyOn(store, 'read');
      await expect(openImage(store, opening())).rejects.toMatchObject({ name: 'DiskError', code: 'corrupt' });
      const read = reading.mock.calls.reduce((sum, [, into]) => sum + into.length, 0);
      expect(read).toBeLessThan(16 * 1024 * 1024);
    }
  });

  it('keeps its segment’s size, and leaves slots alone that only a number would name', async () => {
    const bytes = whole.bytes.slice();
    const json = structuredClone(whole.json);
    json.segments['0'].size = '4096';
    await writeCopies(bytes, json);
    const store = new MemoryStore({ bytes, name: 'image' });
    const image = await openImage(store, { ...opening(), writable: true });
    expect(image.size).toBe(4096);
    await expect(image.resize(8192)).rejects.toMatchObject({ code: 'unsupported' });
    json.keyslots['0'].priority = 0;
    await writeCopies(bytes, json);
    await expect(opens(bytes)).rejects.toMatchObject({ code: 'denied' });
    const amending = luks.amend!(new MemoryStore({ bytes, name: 'image' }), { state: 'active' }, { secret });
    await expect(amending).rejects.toMatchObject({
      code: 'unsupported',
      message: 'Key slots of LUKS2 cannot be changed',
    });
  });

  it('is described without the key', async () => {
    const store = new MemoryStore({ bytes: whole.bytes.slice(), name: 'image' });
    const { layer } = await openLayer(store, { format: 'luks', metadataOnly: true });
    const slots = [{ slot: 0, kdf: 'pbkdf2', iters: 1000, 'key-offset': 2 * copyBytes }];
    const data = { version: 2, 'cipher-alg': 'aes-128', 'payload-offset': payloadAt, slots };
    expect(await layer.details()).toMatchObject({ encrypted: true, formatSpecific: { type: 'luks', data } });
  });

  it('tries every slot for a wrong passphrase, whatever it is', async () => {
    const bytes = whole.bytes.slice();
    const json = structuredClone(whole.json);
    json.config.keyslots_size = String(131_072 * 2);
    json.segments['0'].offset = String(payloadAt + 131_072);
    json.keyslots['1'] = structuredClone(json.keyslots['0']);
    json.keyslots['1'].area.offset = String(payloadAt);
    json.digests['0'].keyslots = ['0', '1'];
    const larger = new Uint8Array(bytes.length + 131_072);
    larger.set(bytes);
    await writeCopies(larger, json);
    const real = primitives();
    const counts: number[] = [];
    try {
      for (const wrong of ['w', 'longer and longer']) {
        let calls = 0;
        registerPrimitives(
          new Proxy(real, {
            get(target, name) {
              if (name === 'pbkdf2') calls++;
              const value = Reflect.get(target, name, target);
              return typeof value === 'function' ? value.bind(target) : value;
            },
          }),
        );
        const tried = openImage(new MemoryStore({ bytes: larger, name: 'image' }), {
          ...opening(),
          secret: async () => new TextEncoder().encode(wrong),
        });
        await expect(tried).rejects.toMatchObject({ code: 'denied' });
        counts.push(calls);
      }
    } finally {
      registerPrimitives(real);
    }
    // Both slots, and their keys' digests.
    expect(counts).toEqual([4, 4]);
  });
});
