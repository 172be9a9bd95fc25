import { copyFile, readFile, stat, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { have, mustRun, run, tempDir } from '../../../test/support/programs.ts';
import { createImage, openImage } from '../../image/open.ts';
import { openFileStore } from '../../node.ts';
import { FilterStore } from '../../storage/filter-store.ts';
import type { ByteSource } from '../../storage/store.ts';
import { luks } from './index.ts';

/*
 * cryptsetup and nbdkit, which read LUKS by code of their own, judge key slots and contents, in both directions.
 */

const passphrases: Readonly<Record<string, string>> = { s: 'correct horse', n: 'battery staple' };
const secret = async (id: string) => new TextEncoder().encode(passphrases[id] ?? 'wrong');
const opening = (id = 's') => ({ format: 'luks', layerOptions: { 'key-secret': id }, secret });

/** A store that goes no further after so many writes. */
class CutOff extends FilterStore {
  #left: number;

  constructor(inner: ByteSource, writes: number) {
    super(inner);
    this.#left = writes;
  }

  override async write(at: number, from: Uint8Array): Promise<void> {
    if (this.#left-- <= 0) throw new Error('cut off');
    await super.write(at, from);
  }
}

async function makeImage(file: string, size: number, options = {}): Promise<void> {
  await writeFile(file, '');
  await using store = await openFileStore(file, { writable: true });
  const quick = { 'key-secret': 's', 'iter-time': 0, ...options };
  await createImage(store, 'luks', size, quick, { secret });
}

async function amend(file: string, id: string, values: Record<string, string | number>): Promise<void> {
  await using store = await openFileStore(file, { writable: true });
  await luks.amend!(store, values, { secret, keySecret: id });
}

/** The slot that cryptsetup opens by this passphrase; undefined: none. */
async function slotFor(file: string, passphrase: string): Promise<number | undefined> {
  const args = ['open', '-v', '--test-passphrase', file, '-d', '-'];
  const { code, stdout } = await run('cryptsetup', args, { input: passphrase });
  if (code !== 0) return undefined;
  return Number(/Key slot (\d+) unlocked/.exec(stdout)?.[1]);
}

const canOpen = async (file: string, id: string): Promise<boolean> => {
  try {
    await using _image = await openImage(await openFileStore(file), opening(id));
    return true;
  } catch (error) {
    expect(error).toMatchObject({ code: 'denied', message: 'Invalid password, cannot unlock any keyslot' });
    return false;
  }
};

describe.skipIf(!have('cryptsetup'))('cryptsetup', () => {
  it('opens by the slots that are added and erased here', async () => {
    await using dir = await tempDir();
    const file = dir.file('image');
    await makeImage(file, 65_536, { 'cipher-alg': 'aes-128' });
    expect(await slotFor(file, passphrases.s)).toBe(0);
    await amend(file, 's', { state: 'active', 'new-secret': 'n', keyslot: 5, 'iter-time': 1 });
    expect(await slotFor(file, passphrases.s)).toBe(0);
    expect(await slotFor(file, passphrases.n)).toBe(5);
    await amend(file, 'n', { state: 'inactive', 'old-secret': 's' });
    expect(await slotFor(file, passphrases.s)).toBeUndefined();
    expect(await slotFor(file, passphrases.n)).toBe(5);
    await expect(amend(file, 'n', { state: 'inactive', keyslot: 5 })).rejects.toMatchObject({
      code: 'denied',
    });
    const dump = await mustRun('cryptsetup', ['luksDump', file]);
    expect(dump).toMatch(/Key Slot 0: DISABLED/);
    expect(dump).toMatch(/Key Slot 5: ENABLED/);
  });

  it('opens by one passphrase at least, wherever the overwriting of the only slot is cut off', async () => {
    await using dir = await tempDir();
    const [whole, file] = [dir.file('whole'), dir.file('image')];
    await makeImage(whole, 65_536, { 'cipher-alg': 'aes-128' });
    const values = { state: 'active', 'new-secret': 'n', keyslot: 0, 'iter-time': 1 };
    const change = async (writes: number) => {
      await copyFile(whole, file);
      await using store = new CutOff(await openFileStore(file, { writable: true }), writes);
      await luks.amend!(store, values, { secret, keySecret: 's', force: true });
    };
    const opened: string[] = [];
    for (let writes = 0; writes < 6; writes++) {
      await expect(change(writes)).rejects.toThrow('cut off');
      const by = [await slotFor(file, passphrases.s), await slotFor(file, passphrases.n)];
      expect(by, `after ${writes} writes`).not.toEqual([undefined, undefined]);
      opened.push(by.map((slot) => slot ?? '-').join(' '));
    }
    expect([opened[0], opened.at(-1)]).toEqual(['0 -', '- 0']);
    await change(Number.POSITIVE_INFINITY);
    expect(await slotFor(file, passphrases.n)).toBe(0);
    expect((await mustRun('cryptsetup', ['luksDump', file])).match(/ENABLED/g)).toHaveLength(1);
  });

  it('adds and kills slots of an image made here, and that is seen here', async () => {
    await using dir = await tempDir();
    const file = dir.file('image');
    await makeImage(file, 65_536);
    await writeFile(dir.file('new'), passphrases.n);
    const quick = ['-q', '--pbkdf-force-iterations', '1000', '-d', '-'];
    await mustRun('cryptsetup', ['luksAddKey', ...quick, file, dir.file('new')], { input: passphrases.s });
    expect([await canOpen(file, 's'), await canOpen(file, 'n')]).toEqual([true, true]);
    await mustRun('cryptsetup', ['luksKillSlot', '-q', file, '0', '-d', '-'], { input: passphrases.n });
    expect([await canOpen(file, 's'), await canOpen(file, 'n')]).toEqual([false, true]);
  });

  it.each(['off', 'metadata', 'falloc', 'full'])(
    'takes as much of the disk as qemu-img does: preallocation=%s',
    async (preallocation) => {
      await using dir = await tempDir();
      const [ours, theirs] = [dir.file('ours'), dir.file('theirs')];
      await makeImage(ours, 4 << 20, { preallocation });
      const options = `key-secret=s,iter-time=10,preallocation=${preallocation}`;
      const object = ['--object', 'secret,id=s,data=x'];
      await mustRun('qemu-img', ['create', '-q', '-f', 'luks', ...object, '-o', options, theirs, '4M']);
      const taken = async (file: string) => (await stat(file)).blocks * 512;
      expect(await taken(ours)).toBe(await taken(theirs));
      expect((await taken(ours)) > 4 << 20).toBe(preallocation === 'falloc' || preallocation === 'full');
    },
  );

  it('tells the volume key that openssl decrypts our payload with', async () => {
    await using dir = await tempDir();
    const file = dir.file('image');
    const options = { 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc', 'ivgen-alg': 'plain64' };
    await makeImage(file, 65_536, options);
    const sector = new Uint8Array(512).map((_, at) => (at * 7) % 251);
    {
      const store = await openFileStore(file, { writable: true });
      await using image = await openImage(store, { ...opening(), writable: true });
      await image.write(3 * 512, sector);
    }
    const dumping = ['luksDump', '-q', '--dump-volume-key', '-d', '-', file];
    const dump = await mustRun('cryptsetup', dumping, { input: passphrases.s });
    const key = /MK dump:\s*([\s0-9a-f]+)/.exec(dump)![1].replaceAll(/\s/g, '');
    const offset = Number(/Payload offset:\s*(\d+)/.exec(dump)![1]) * 512;
    const bytes = (await readFile(file)).subarray(offset + 3 * 512, offset + 4 * 512);
    await writeFile(dir.file('sector'), bytes);
    const iv = `03${'00'.repeat(15)}`;
    const how = ['enc', '-d', '-aes-128-cbc', '-nopad', '-K', key, '-iv', iv];
    await mustRun('openssl', [...how, '-in', dir.file('sector'), '-out', dir.file('plain')]);
    expect(new Uint8Array(await readFile(dir.file('plain')))).toEqual(sector);
  });
});

describe.skipIf(!have('nbdkit') || !have('nbdcopy'))("nbdkit's luks filter", () => {
  it.each([
    ['aes-256', 'xts', 'plain64'],
    ['aes-128', 'cbc', 'plain64'],
  ])('reads what is written here with %s in %s-%s', async (cipher, mode, ivgen) => {
    await using dir = await tempDir();
    const file = dir.file('image');
    const size = 300 * 512;
    await makeImage(file, size, { 'cipher-alg': cipher, 'cipher-mode': mode, 'ivgen-alg': ivgen });
    const content = new Uint8Array(size).map((_, at) => (at * 2654435761) >>> 24);
    {
      const store = await openFileStore(file, { writable: true });
      await using image = await openImage(store, { ...opening(), writable: true });
      await image.write(0, content);
    }
    await writeFile(dir.file('key'), passphrases.s);
    const copy = `nbdcopy "$uri" ${dir.file('out')}`;
    const args = ['-U', '-', '--filter=luks', 'file', file, `passphrase=+${dir.file('key')}`, '--run', copy];
    await mustRun('nbdkit', args);
    expect((await readFile(dir.file('out'))).equals(content)).toBe(true);
  });
});
