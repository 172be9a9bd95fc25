import { readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { patchFile, writeDifferencingVhd } from '../../../test/support/hyper-v-images.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { createImageFile, openImageFile, trustedImages, untrustedImages } from '../../node.ts';
import { checkImage } from '../../operations/check.ts';
import { checksumOf } from './footer.ts';
import { fitGeometry, sectorsOf } from './geometry.ts';

const MiB = 1024 * 1024;

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir('cowherd-vhd-');
});
afterAll(() => dir.remove());

const open = (path: string, writable = false) =>
  openImageFile(path, { format: 'vpc', writable, policy: trustedImages });

async function content(path: string): Promise<Buffer> {
  await using image = await open(path);
  const bytes = Buffer.alloc(image.size);
  await image.read(0, bytes);
  return bytes;
}

const make = async (name: string, options = 'force_size=on', size = '8M'): Promise<string> => {
  const path = dir.file(name);
  await mustRun('qemu-img', ['create', '-q', '-f', 'vpc', '-o', options, path, size]);
  await mustRun('qemu-io', ['-f', 'vpc', '-c', 'write -P 7 1M 2M', path]);
  return path;
};

/** A footer without what differs from one image to the next: time, checksum and identifier. */
function masked(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  for (const at of [0, copy.length - 512]) {
    if (copy.toString('latin1', at, at + 8) !== 'conectix') continue;
    copy.fill(0, at + 24, at + 28);
    copy.fill(0, at + 64, at + 84);
  }
  return copy;
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('a VHD', () => {
  it('is created byte for byte as qemu-img creates it, but for time and identifier', async () => {
    const sizes = [0, 512, 1000, 3_000_000, 8 * MiB, 137_000_000_000];
    for (const size of sizes) {
      for (const options of [{}, { force_size: true }, { subformat: 'fixed' }]) {
        if (size > 100 * MiB && 'subformat' in options) continue;
        const [ours, theirs] = [dir.file('ours'), dir.file('theirs')];
        await createImageFile(ours, { format: 'vpc', size, options });
        const list = Object.entries(options).map(([key, value]) => `${key}=${value === true ? 'on' : value}`);
        const given = list.length > 0 ? ['-o', list.join(',')] : [];
        await mustRun('qemu-img', ['create', '-q', '-f', 'vpc', ...given, theirs, `${size}`]);
        expect(masked(await readFile(ours)).equals(masked(await readFile(theirs))), `${size} ${list}`).toBe(
          true,
        );
        await rm(ours);
      }
    }
  });

  it('gets the size that qemu-img gives it', async () => {
    const size = fc.oneof(
      fc.integer({ min: 0, max: 40_000_000 }),
      fc.integer({ min: 0, max: 40_000_000_000 }),
      fc.maxSafeNat().map((value) => value % (2041 * 1024 * MiB)),
    );
    const path = dir.file('geometry');
    await fc.assert(
      fc.asyncProperty(size, async (bytes) => {
        const made = await run('qemu-img', ['create', '-q', '-f', 'vpc', path, `${bytes}`]);
        if (made.code !== 0) {
          expect(() => fitGeometry(bytes, false)).toThrow('2040 GiB');
          return;
        }
        const info = JSON.parse(await mustRun('qemu-img', ['info', '-f', 'vpc', '--output=json', path]));
        const fit = fitGeometry(bytes, false);
        expect([fit.size, sectorsOf(fit.geometry) <= 65535 * 16 * 255]).toEqual([info['virtual-size'], true]);
      }),
      { numRuns: 40 },
    );
  });

  it('has the size that QEMU goes by for the program that made it', async () => {
    const path = await make('creator.vhd', 'force_size=off', '9000001');
    const sizes = new Set<number>();
    for (const creator of ['vpc ', 'vs  ', 'win ', 'd2v ', 'CTXS', 'tap\0', 'qemu', 'qem2', 'vbox', 'none']) {
      const bytes = await readFile(path);
      for (const at of [0, bytes.length - 512]) {
        const footer = bytes.subarray(at, at + 512);
        footer.write(creator, 28, 'latin1');
        // Larger than what the geometry says, so that it shows which of the two counts.
        footer.writeBigUInt64BE(9_437_184n, 48);
        footer.writeUInt32BE(checksumOf(footer, 64), 64);
      }
      await writeFile(path, bytes);
      const info = JSON.parse(await mustRun('qemu-img', ['info', '-f', 'vpc', '--output=json', path]));
      await using image = await open(path);
      expect([creator, image.size]).toEqual([creator, info['virtual-size']]);
      sizes.add(image.size);
    }
    expect(sizes.size).toBe(2);
  });

  it('is repaired from its other footer', async () => {
    for (const [where, kind] of [
      ['start', 'corruptionsFixed'],
      ['end', 'leaksFixed'],
    ] as const) {
      const path = await make('copies.vhd');
      const sound = await readFile(path);
      await patchFile(path, where === 'start' ? 30 : sound.length - 480, Uint8Array.of(99, 98));
      expect((await content(path))[MiB]).toBe(7);
      {
        await using image = await open(path, true);
        expect((await checkImage(image.layer, { repair: 'all' }))[kind]).toBe(1);
      }
      expect((await readFile(path)).equals(sound)).toBe(true);
    }
    const path = await make('neither.vhd');
    await patchFile(path, 30, Uint8Array.of(99));
    await patchFile(path, (await stat(path)).size - 480, Uint8Array.of(99));
    await expect(open(path)).rejects.toMatchObject({ code: 'corrupt', message: 'Incorrect header checksum' });
  });

  it('grows on when its last footer is lost, and ends in one again', async () => {
    const path = await make('tailless.vhd');
    await truncate(path, (await stat(path)).size - 512);
    {
      await using image = await open(path, true);
      await image.write(7 * MiB, new Uint8Array(1000).fill(5));
    }
    const bytes = await readFile(path);
    expect(bytes.subarray(-512).equals(bytes.subarray(0, 512))).toBe(true);
    await mustRun('qemu-io', ['-f', 'vpc', '-c', 'read -P 7 1M 2M', '-c', 'read -P 5 7M 1000', path]);
  });

  it('gets its first footer back before the last one, which alone holds, gives way to new blocks', async () => {
    const path = await make('headless.vhd');
    const sound = await readFile(path);
    await patchFile(path, 30, Uint8Array.of(99, 98));
    {
      await using image = await open(path, true);
      await image.write(MiB, new Uint8Array(512).fill(7));
      // Over what is there: nothing hangs on the copy yet.
      expect((await readFile(path))[30]).toBe(99);
      await image.write(7 * MiB, new Uint8Array(512).fill(5));
    }
    expect((await readFile(path)).subarray(0, 512).equals(sound.subarray(0, 512))).toBe(true);
  });

  it('is refused when a block lies over the only footer that holds, and it is to be written', async () => {
    const path = await make('over-footer.vhd');
    const bytes = await readFile(path);
    // The block would end with the file.
    const sector = Math.ceil((bytes.length - 512 - 2 * MiB) / 512);
    const entry = Buffer.alloc(4);
    entry.writeUInt32BE(sector);
    await patchFile(path, 1536, Buffer.from([255, 255, 255, 255]));
    for (let index = 1; index < 4; index++) {
      await patchFile(path, 1536 + index * 4, Buffer.from([255, 255, 255, 255]));
    }
    await patchFile(path, 1536 + 3 * 4, entry);
    await (await open(path, true))[Symbol.asyncDispose]();
    await patchFile(path, 30, Uint8Array.of(99, 98));
    await expect(open(path, true)).rejects.toMatchObject({ code: 'corrupt', message: /overlap/ });
    // Reading harms nothing.
    await content(path);
  });

  it('is refused when an entry names what lies past the end of the file', async () => {
    const path = await make('far.vhd');
    await patchFile(path, 1536 + 3 * 4, Buffer.from([0xff, 0xff, 0xff, 0xfe]));
    for (const writable of [false, true]) {
      await expect(open(path, writable)).rejects.toMatchObject({ code: 'corrupt' });
    }
  });

  it('is refused when blocks overlap, and it is to be written', async () => {
    const path = await make('overlap.vhd');
    const table = await readFile(path);
    await patchFile(path, 1536 + 3 * 4, table.subarray(1536, 1540));
    expect((await content(path))[7 * MiB]).toBe(7);
    await expect(open(path, true)).rejects.toMatchObject({
      code: 'corrupt',
      field: 'block allocation table',
    });
  });

  it.skipIf(!have('7zz'))('is read by 7zz as we wrote it', async () => {
    for (const [format, options] of [
      ['vpc', { force_size: true }],
      ['vpc', { force_size: true, subformat: 'fixed' }],
      ['vhdx', {}],
      ['vhdx', { subformat: 'fixed' }],
    ] as const) {
      const path = dir.file(`seven.${format === 'vpc' ? 'vhd' : 'vhdx'}`);
      // It wants whole MiB of a VHDX.
      const size = 9 * MiB + (format === 'vpc' ? 512 : 0);
      await createImageFile(path, { format, size, options });
      const model = Buffer.alloc(size);
      {
        await using image = await openImageFile(path, { format, writable: true, policy: trustedImages });
        for (const [index, at] of [100, 3 * MiB - 7, 9 * MiB - 600].entries()) {
          model.fill(index + 1, at, at + 600);
          await image.write(at, model.subarray(at, at + 600));
        }
      }
      await mustRun('7zz', ['x', '-y', `-t${format === 'vpc' ? 'VHD' : 'VHDX'}`, '-oout', path], {
        cwd: dir.path,
      });
      const out = dir.file('out');
      const name = (await mustRun('ls', [out])).trim();
      expect((await readFile(`${out}/${name}`)).equals(model), `${format} ${JSON.stringify(options)}`).toBe(
        true,
      );
      await rm(out, { recursive: true });
      await rm(path);
    }
  });

  it.skipIf(!have('vhdiinfo'))('is what libvhdi takes it for', async () => {
    for (const [format, options, kind] of [
      ['vpc', { force_size: true }, 'Dynamic'],
      ['vpc', { force_size: true, subformat: 'fixed' }, 'Fixed'],
      ['vhdx', {}, 'Dynamic'],
    ] as const) {
      const path = dir.file('libvhdi');
      await createImageFile(path, { format, size: 9 * MiB, options });
      const said = await mustRun('vhdiinfo', [path]);
      expect(said).toContain(kind);
      expect(said).toContain('9437184');
      await rm(path);
    }
  });
});

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('a differencing VHD', () => {
  const own = [
    { block: 0, from: 2049, bytes: new Uint8Array(1024).fill(9) },
    { block: 3, from: 0, bytes: new Uint8Array(512).fill(8) },
  ];
  const model = () => {
    const bytes = Buffer.alloc(8 * MiB);
    bytes.fill(7, MiB, 3 * MiB);
    bytes.fill(9, MiB + 512, MiB + 1536);
    bytes.fill(8, 6 * MiB, 6 * MiB + 512);
    return bytes;
  };
  const child = async (locators: Parameters<typeof writeDifferencingVhd>[2], name = '') => {
    const parent = await make('parent.vhd');
    const path = dir.file('child.vhd');
    await writeDifferencingVhd(path, parent, locators, own, name);
    return path;
  };

  it('finds its parent by a relative name, an absolute one, a URL, and one of Windows', async () => {
    for (const locators of [
      [{ platform: 'W2ru', path: '.\\parent.vhd' }],
      [{ platform: 'W2ku', path: dir.file('parent.vhd') }],
      [{ platform: 'MacX', path: `file://localhost${dir.file('parent.vhd')}` }],
      [
        { platform: 'W2ku', path: 'C:\\VMs\\parent.vhd' },
        { platform: 'W2ru', path: '..\\gone\\parent.vhd' },
      ],
    ] as const) {
      expect((await content(await child(locators))).equals(model())).toBe(true);
    }
    expect((await content(await child([], 'parent.vhd'))).equals(model())).toBe(true);
  });

  it('refuses a parent that is not there, is another disk, or is not to be trusted', async () => {
    await expect(open(await child([{ platform: 'W2ru', path: '.\\gone.vhd' }]))).rejects.toMatchObject({
      code: 'not-found',
    });
    const path = await child([{ platform: 'W2ru', path: '.\\parent.vhd' }]);
    await make('parent.vhd');
    await expect(open(path)).rejects.toMatchObject({ code: 'changed', field: 'parent unique id' });
    const outside = await child([{ platform: 'W2ru', path: '..\\parent.vhd' }]);
    const opening = openImageFile(outside, { format: 'vpc', policy: untrustedImages });
    await expect(opening).rejects.toMatchObject({ code: 'denied' });
  });

  it('is written by the sector, the parent left alone', async () => {
    const path = await child([{ platform: 'W2ru', path: '.\\parent.vhd' }]);
    const parent = await readFile(dir.file('parent.vhd'));
    const bytes = model();
    {
      await using image = await open(path, true);
      const writes: [number, number][] = [
        [MiB + 1000, 3000],
        [2 * MiB - 100, 300],
        [5 * MiB + 77, 1],
        [7 * MiB, MiB],
      ];
      await Promise.all(
        writes.map(async ([at, length], index) => {
          bytes.fill(20 + index, at, at + length);
          await image.write(at, new Uint8Array(length).fill(20 + index));
        }),
      );
      await image.zero(2 * MiB + 10_000, 5000);
      bytes.fill(0, 2 * MiB + 10_000, 2 * MiB + 15_000);
    }
    expect((await content(path)).equals(bytes)).toBe(true);
    expect((await readFile(dir.file('parent.vhd'))).equals(parent)).toBe(true);
  });
});
