import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { have, mustRun, run, tempDir } from '../../../test/support/programs.ts';
import { createImage, openImage } from '../../image/open.ts';
import { openFileStore } from '../../node.ts';

/*
 * cryptsetup as judge, both ways, of every cipher, key size, mode, generator of vectors and hash that it and we have. It tells the volume
 * key; OpenSSL's own modes, sector by sector, then say what the payload must be. COWHERD_LONG=1: all of them with all hashes.
 */

const passphrase = 'correct horse';
const secret = async () => new TextEncoder().encode(passphrase);
const opening = { format: 'luks', layerOptions: { 'key-secret': 's' }, secret };

const hashes = ['sha256', 'sha1', 'sha512', 'ripemd160', 'sha224'] as const;
const modes = [
  ['xts', 'plain64', [256, 512]],
  ['xts', 'plain', [256, 512]],
  ['cbc', 'essiv:sha256', [128, 192, 256]],
  ['cbc', 'plain64', [128, 192, 256]],
  ['cbc', 'plain', [128, 192, 256]],
] as const;
const ciphers = modes.flatMap(([mode, generator, sizes]) => sizes.map((bits) => ({ mode, generator, bits })));
const rows = ciphers.flatMap((cipher, index) =>
  (process.env.COWHERD_LONG === '1' ? hashes : [hashes[index % hashes.length]]).map((hash) => ({
    ...cipher,
    hash,
  })),
);
type Row = (typeof rows)[number];

/** A sector by OpenSSL alone. */
function byOpenssl(
  { mode, generator }: Row,
  key: Buffer,
  sector: number,
  bytes: Buffer,
  decrypt: boolean,
): Buffer {
  let iv = Buffer.alloc(16);
  iv.writeUInt32LE(sector);
  if (generator.startsWith('essiv')) {
    const salt = createHash('sha256').update(key).digest();
    iv = createCipheriv('aes-256-ecb', salt, null).setAutoPadding(false).update(iv);
  }
  const name = `aes-${key.length * (mode === 'xts' ? 4 : 8)}-${mode}`;
  const cipher = decrypt ? createDecipheriv(name, key, iv) : createCipheriv(name, key, iv);
  return (mode === 'xts' ? cipher : cipher.setAutoPadding(false)).update(bytes);
}

async function volumeKey(file: string): Promise<{ readonly key: Buffer; readonly payload: number }> {
  const dumping = ['luksDump', '-q', '--dump-volume-key', '-d', '-', file];
  const dump = await mustRun('cryptsetup', dumping, { input: passphrase });
  const hex = /MK dump:\s*([\s0-9a-f]+)/.exec(dump)![1].replaceAll(/\s/g, '');
  const payload = Number(/Payload offset:\s*(\d+)/.exec(dump)![1]) * 512;
  return { key: Buffer.from(hex, 'hex'), payload };
}

describe.skipIf(!have('cryptsetup'))('with cryptsetup', () => {
  it.each(rows)('$mode-$generator of $bits bits, $hash: made there, read and written here', async (row) => {
    const { mode, generator, bits, hash } = row;
    await using dir = await tempDir();
    const file = dir.file('image');
    await writeFile(file, '');
    await truncate(file, 3 * 1024 * 1024);
    const kind = ['--type', 'luks1', '--cipher', `aes-${mode}-${generator}`, '--key-size', String(bits)];
    const quick = ['--hash', hash, '--pbkdf-force-iterations', '1000'];
    await mustRun('cryptsetup', ['luksFormat', '-q', ...kind, ...quick, file, '-d', '-'], {
      input: passphrase,
    });
    const { key, payload } = await volumeKey(file);
    const [there, here] = [randomBytes(512), randomBytes(512)];
    {
      await using store = await openFileStore(file, { writable: true });
      await store.write(payload + 3 * 512, byOpenssl(row, key, 3, there, false));
    }
    {
      await using image = await openImage(await openFileStore(file, { writable: true }), {
        ...opening,
        writable: true,
      });
      const read = Buffer.alloc(512);
      await image.read(3 * 512, read);
      expect(read.equals(there)).toBe(true);
      await image.write(7 * 512, here);
    }
    const written = (await readFile(file)).subarray(payload + 7 * 512, payload + 8 * 512);
    expect(byOpenssl(row, key, 7, written, true).equals(here)).toBe(true);
  });

  it.each(rows)('$mode-$generator of $bits bits, $hash: made here, opened there', async (row) => {
    const { mode, generator, bits, hash } = row;
    await using dir = await tempDir();
    const file = dir.file('image');
    await writeFile(file, '');
    const [ivgen, ivHash] = generator.split(':');
    const sector = randomBytes(512);
    {
      await using store = await openFileStore(file, { writable: true });
      const options = {
        ...{ 'key-secret': 's', 'iter-time': 0, 'hash-alg': hash },
        ...{
          'cipher-alg': `aes-${mode === 'xts' ? bits / 2 : bits}`,
          'cipher-mode': mode,
          'ivgen-alg': ivgen,
        },
        ...(ivHash && { 'ivgen-hash-alg': ivHash }),
      };
      await createImage(store, 'luks', 65_536, options, { secret });
    }
    {
      await using image = await openImage(await openFileStore(file, { writable: true }), {
        ...opening,
        writable: true,
      });
      await image.write(5 * 512, sector);
    }
    const test = ['open', '--test-passphrase', file, '-d', '-'];
    expect(await run('cryptsetup', test, { input: passphrase })).toMatchObject({ code: 0 });
    expect((await run('cryptsetup', test, { input: 'wrong' })).code).not.toBe(0);
    const dump = await mustRun('cryptsetup', ['luksDump', file]);
    expect(dump).toMatch(new RegExp(`Cipher mode:\\s+${mode}-${generator}\\s[^]*Hash spec:\\s+${hash}\\s`));
    expect(dump).toMatch(new RegExp(`MK bits:\\s+${bits}\\s`));
    const { key, payload } = await volumeKey(file);
    const written = (await readFile(file)).subarray(payload + 5 * 512, payload + 6 * 512);
    expect(byOpenssl(row, key, 5, written, true).equals(sector)).toBe(true);
  });
});
