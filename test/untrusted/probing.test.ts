import { open, readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isDiskError } from '../../src/errors.ts';
import type { Image } from '../../src/image/image.ts';
import { openImageFile } from '../../src/node.ts';
import { have, mustRun, type TempDir, tempDir } from '../support/programs.ts';

/*
 * A guest who owns a raw disk may write what he likes, also the first sector of an image that names /etc/shadow. As long
 * as the disk was taken for raw only because it looks like nothing else, no write may make it look like something else.
 * qemu-img makes the first sectors, and judges what is left.
 */

const formats = ['qcow2', 'qcow', 'vmdk', 'vdi', 'vpc', 'vhdx', 'qed', 'parallels', 'luks'];
const secret = ['--object', 'secret,id=s,data=x'];

let dir: TempDir;
const sectors = new Map<string, Uint8Array>();

beforeAll(async () => {
  if (!have('qemu-img')) return;
  dir = await tempDir('cowherd-probing-');
  for (const format of formats) {
    const options = format === 'luks' ? [...secret, '-o', 'key-secret=s,iter-time=10'] : [];
    await mustRun('qemu-img', ['create', '-q', '-f', format, ...options, format, '1M'], { cwd: dir.path });
    sectors.set(format, (await readFile(dir.file(format))).subarray(0, 512));
  }
  const descriptor = new Uint8Array(512);
  descriptor.set(new TextEncoder().encode('# Disk DescriptorFile\nversion=1\nRW 8 FLAT "/etc/shadow" 0\n'));
  sectors.set('vmdk descriptor', descriptor);
  const parallels = Uint8Array.from(sectors.get('parallels')!);
  // Becomes a header by zeroes alone.
  parallels[19] = 1;
  sectors.set('parallels with a wrong version', parallels);
});

afterAll(() => dir?.remove());

/** A raw image of noise after a first sector of zeroes, opened without its format. */
async function guest(): Promise<Image> {
  await writeFile(dir.file('guest'), new Uint8Array(64 * 1024).fill(0x5a).fill(0, 0, 512));
  return openImageFile(dir.file('guest'), { writable: true });
}

/** Does what the guest asks; what is denied stays undone. */
async function asked(work: Promise<void>): Promise<boolean> {
  try {
    await work;
    return true;
  } catch (error) {
    if (isDiskError(error, 'denied') && error.field === 'probed') return false;
    throw error;
  }
}

async function expectRaw(image: Image): Promise<void> {
  await image[Symbol.asyncDispose]();
  const info = JSON.parse(await mustRun('qemu-img', ['info', '--output=json', dir.file('guest')]));
  expect(info.format).toBe('raw');
  await using again = await openImageFile(dir.file('guest'));
  expect(again.layer.format).toBe('raw');
}

describe.skipIf(!have('qemu-img'))('a guest cannot turn a guessed raw image into', () => {
  it.each([...formats, 'vmdk descriptor'])('%s, in one write', async (format) => {
    const image = await guest();
    expect(await asked(image.write(0, sectors.get(format)!))).toBe(false);
    await expectRaw(image);
  });

  it.each([...formats, 'vmdk descriptor'])('%s, byte by byte, from either end', async (format) => {
    for (const order of ['forth', 'back']) {
      const image = await guest();
      const sector = sectors.get(format)!;
      let denied = 0;
      for (let i = 0; i < 512; i++) {
        const at = order === 'forth' ? i : 511 - i;
        if (!(await asked(image.write(at, sector.subarray(at, at + 1))))) denied++;
      }
      expect(denied).toBeGreaterThan(0);
      await expectRaw(image);
    }
  });

  it('parallels, by zeroes, nor by discarding', async () => {
    const image = await guest();
    const wrong = sectors.get('parallels with a wrong version')!;
    expect(await asked(image.write(0, wrong))).toBe(true);
    expect(await asked(image.zero(19, 1))).toBe(false);
    expect(await asked(image.zero(19, 4096, { unmap: true }))).toBe(false);
    expect(await asked(image.discard(19, 4096))).toBe(true);
    await expectRaw(image);
    await using raw = await openImageFile(dir.file('guest'), { writable: true });
    await raw.zero(0, 512);
    await raw.write(0, new Uint8Array(512).fill(1));
  });

  it('anything by what its last bytes say: a fixed VHD has its header there', async () => {
    const create = ['create', '-q', '-f', 'vpc', '-o', 'subformat=fixed', 'fixed', '1M'];
    await mustRun('qemu-img', create, { cwd: dir.path });
    const file = await open(dir.file('fixed'), 'r');
    const footer = new Uint8Array(512);
    await file.read(footer, 0, 512, (await file.stat()).size - 512);
    await file.close();
    expect(new TextDecoder().decode(footer.subarray(0, 8))).toBe('conectix');
    const image = await guest();
    await image.write(64 * 1024 - 512, footer);
    await expectRaw(image);
  });

  it('anything, where the format was said: then every write goes through', async () => {
    await guest();
    await using image = await openImageFile(dir.file('guest'), { writable: true, format: 'raw' });
    for (const sector of sectors.values()) await image.write(0, sector);
  });
});
