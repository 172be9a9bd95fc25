import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectSame, pattern, readAll } from '../../../test/contract/model.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { createImageFile, openImageFile, trustedImages } from '../../node.ts';
import { checkImage } from '../../operations/check.ts';
import { commitImage } from '../../operations/commit.ts';
import { inspectImage } from '../../operations/inspect.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { parseDescriptor } from './descriptor.ts';

const grain = 65536;
let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir('cowherd-vmdk-');
});
afterAll(() => dir.remove());

const policy = trustedImages;
const bytesOf = (text: string) => new TextEncoder().encode(text);
const head = (type: string) =>
  `# Disk DescriptorFile\nversion=1\nCID=0000abcd\nparentCID=ffffffff\ncreateType="${type}"\n`;

async function content(name: string): Promise<Uint8Array> {
  await using image = await openImageFile(dir.file(name), { policy });
  return await readAll(image);
}

/** What QEMU reads. */
async function theirs(name: string): Promise<Uint8Array> {
  await mustRun('qemu-img', ['convert', '-f', 'vmdk', '-O', 'raw', name, 'theirs.raw'], { cwd: dir.path });
  return readFile(dir.file('theirs.raw'));
}

describe('a descriptor', () => {
  it('may have CRLF, blanks, comments, and names in any letters', () => {
    const text =
      '# Disk DescriptorFile\r\n  version = 1\r\nencoding="UTF-8"\r\nCID = 12aB\r\n\tparentCID=FFFFFFFF\r\n' +
      'isNativeSnapshot="no"\r\ncreateType = "twoGbMaxExtentSparse"\r\nparentFileNameHint="größe.vmdk"\r\n\r\n' +
      '  RW\t4192256   SPARSE  "a b-s001.vmdk"  \r\nRDONLY 10 ZERO\r\nNOACCESS 5 FLAT "x" 7\r\nRW 3 VMFS "y"\r\n' +
      '# RW 3 FLAT "no" 0\r\n\r\nddb.geometry.heads = "255"\r\n';
    const found = parseDescriptor(bytesOf(text), 'x');
    expect(found).toMatchObject({
      cid: 0x12ab,
      parentCid: 0xffffffff,
      createType: 'twoGbMaxExtentSparse',
      parent: 'größe.vmdk',
      extents: [
        { access: 'RW', sectors: 4192256, type: 'SPARSE', file: 'a b-s001.vmdk' },
        { access: 'RDONLY', sectors: 10, type: 'ZERO', file: undefined },
        { access: 'NOACCESS', sectors: 5, type: 'FLAT', file: 'x', offset: 7 },
        { access: 'RW', sectors: 3, type: 'VMFS', file: 'y' },
      ],
    });
    expect(
      Buffer.from(bytesOf(text))
        .subarray(found.cidAt, found.cidAt + found.cidDigits)
        .toString(),
    ).toBe('12aB');
  });

  it('is refused where a line of it cannot be', () => {
    for (const line of [
      'RW 10 FLAT "x"',
      'RW 10 SPARSE "x" 5',
      'RW x FLAT "x" 0',
      'RW 10 OTHER "x"',
      'RW 10 FLAT x 0',
    ]) {
      expect(() => parseDescriptor(bytesOf(`${head('custom')}${line}\n`), 'x'), line).toThrow(
        'Invalid extent line',
      );
    }
    for (const text of ['', 'createType="x"\nCID=1\n', 'createType="x"\nparentCID=1\n']) {
      expect(() => parseDescriptor(bytesOf(text), 'x')).toThrow();
    }
  });

  it('lists extents of every kind and access, which are read, written and refused as it says', async () => {
    const flat = pattern(30 * 512, 1);
    const fixed = pattern(20 * 512, 2);
    await writeFile(dir.file('e-flat'), flat);
    await writeFile(dir.file('e-fixed'), fixed);
    const lines = 'RW 10 FLAT "e-flat" 20\nRW 7 ZERO\nRDONLY 20 VMFS "e-fixed"\nRW 9 FLAT "e-flat" 0\n';
    await writeFile(dir.file('mixed.vmdk'), head('custom') + lines);
    const model = Buffer.concat([
      flat.subarray(20 * 512),
      Buffer.alloc(7 * 512),
      fixed,
      flat.subarray(0, 9 * 512),
    ]);
    expectSame(await content('mixed.vmdk'), model);
    {
      await using image = await openImageFile(dir.file('mixed.vmdk'), { policy, writable: true });
      await image.write(37 * 512 + 100, pattern(1000, 3));
      model.set(pattern(1000, 3), 37 * 512 + 100);
      await expect(image.write(18 * 512, Uint8Array.of(1))).rejects.toMatchObject({ code: 'read-only' });
    }
    expectSame(await content('mixed.vmdk'), model);
    expect(await readFile(dir.file('mixed.vmdk'), 'utf8')).not.toContain('CID=0000abcd');
    await writeFile(
      dir.file('closed.vmdk'),
      `${head('custom')}RW 10 FLAT "e-flat" 0\nNOACCESS 10 FLAT "gone" 0\n`,
    );
    await using image = await openImageFile(dir.file('closed.vmdk'), { policy });
    await image.read(0, new Uint8Array(5120));
    await expect(image.read(5120, new Uint8Array(1))).rejects.toMatchObject({ code: 'denied' });
  });

  it('names its files to who asks, and may not name any for a stranger', async () => {
    const text = `${head('custom')}RW 10 FLAT "/etc/shadow" 0\n`;
    const { touches } = await inspectImage(new MemoryStore({ name: '/d/x.vmdk', bytes: bytesOf(text) }));
    expect(touches).toMatchObject([{ role: 'extent', files: ['/etc/shadow'], refusal: expect.anything() }]);
    await writeFile(dir.file('shadow.vmdk'), text);
    await expect(openImageFile(dir.file('shadow.vmdk'))).rejects.toMatchObject({ code: 'denied' });
  });
});

describe('an ESX copy-on-write extent (COWD)', () => {
  it('is read and written, with tables that come as they are needed', async () => {
    const size = 9 * 1024 * 1024;
    const file = new Uint8Array(16384 + 512);
    const view = new DataView(file.buffer);
    const fields = [0x44574f43, 1, 3, size / 512, 8, 4, 3, 32];
    for (const [index, value] of fields.entries()) view.setUint32(index * 4, value, true);
    await writeFile(dir.file('c-delta.vmdk'), file);
    await writeFile(dir.file('c.vmdk'), `${head('vmfsSparse')}RW ${size / 512} VMFSSPARSE "c-delta.vmdk"\n`);
    const model = new Uint8Array(size);
    for (const round of [1, 2]) {
      await using image = await openImageFile(dir.file('c.vmdk'), { policy, writable: true });
      for (const [at, length] of [
        [5000, 70_000],
        [size - 9000, 9000],
        [4_000_000, 500_000],
      ] as const) {
        await image.write(at + round * 20, pattern(length - round * 20, at + round));
        model.set(pattern(length - round * 20, at + round), at + round * 20);
      }
      expect(await checkImage(image.layer)).toMatchObject({ corruptions: 0, leaks: 0 });
    }
    expectSame(await content('c.vmdk'), model);
    const written = await readFile(dir.file('c-delta.vmdk'));
    expect(written.readUInt32LE(28) * 512).toBe(written.length);
    if (have('qemu-img')) expectSame(await theirs('c.vmdk'), model);
  });
});

describe('an seSparse extent', () => {
  it('is read, and not written', async () => {
    const size = 20 * 1024 * 1024;
    const file = Buffer.alloc(0x20000 + 4 * 4096);
    const put = (at: number, value: bigint) => file.writeBigUInt64LE(value, at);
    const header: readonly (readonly [number, number | bigint])[] = [
      [0, 0xcafebaben],
      [8, 0x200000001n],
      [16, size / 512],
      [24, 8],
      [32, 64],
      [80, 1],
      [88, 1],
      [128, 8],
      [136, 1],
      [144, 16],
      [152, 128],
      [192, 256],
      [200, 32],
    ];
    for (const [at, value] of header) put(at, BigInt(value));
    put(512, 0xcafecafen);
    put(8 * 512, 0x1000000000000001n);
    const table = 16 * 512 + 32768;
    // Grain numbers have their low 12 bits on top.
    put(table, 0x3002000000000000n);
    put(table + 8, 0x3003000000000000n);
    put(table + 16, 0x2000000000000000n);
    put(table + 24, 0x1000000000000000n);
    put(table + 32, 0x3000000000000000n);
    const data = pattern(4 * 4096, 5);
    file.set(data, 0x20000);
    await writeFile(dir.file('se-sesparse.vmdk'), file);
    await writeFile(dir.file('se.vmdk'), `${head('seSparse')}RW ${size / 512} SESPARSE "se-sesparse.vmdk"\n`);
    const model = new Uint8Array(size);
    model.set(data.subarray(8192), 0);
    model.set(data.subarray(0, 4096), 4 * 4096);
    expectSame(await content('se.vmdk'), model);
    if (have('qemu-img')) expectSame(await theirs('se.vmdk'), model);
    await expect(openImageFile(dir.file('se.vmdk'), { policy, writable: true })).rejects.toMatchObject({
      message: 'No write support for seSparse images available',
    });
    put(536, 1n);
    await writeFile(dir.file('se-sesparse.vmdk'), file);
    await expect(openImageFile(dir.file('se.vmdk'), { policy })).rejects.toThrow('Image is dirty');
  });
});

describe('a hosted sparse extent', () => {
  it('may have its grain directories the other way round', async () => {
    const size = 50 * 1024 * 1024;
    await createImageFile(dir.file('sw.vmdk'), { format: 'vmdk', size });
    const file = await readFile(dir.file('sw.vmdk'));
    const [copy, first] = [file.readBigUInt64LE(48), file.readBigUInt64LE(56)];
    file.writeBigUInt64LE(first, 48);
    file.writeBigUInt64LE(copy, 56);
    await writeFile(dir.file('sw.vmdk'), file);
    const model = new Uint8Array(size);
    {
      await using image = await openImageFile(dir.file('sw.vmdk'), { policy, writable: true });
      for (const at of [100, 33_000_000, 49_000_000]) {
        await image.write(at, pattern(200_000, at));
        model.set(pattern(200_000, at), at);
      }
      await image.flush();
      expect(await checkImage(image.layer)).toMatchObject({ corruptions: 0, leaks: 0 });
    }
    expectSame(await content('sw.vmdk'), model);
    if (have('qemu-img')) expectSame(await theirs('sw.vmdk'), model);
  });

  it('is not written where an entry names room past the end, which a new grain would come to share', async () => {
    await createImageFile(dir.file('past.vmdk'), { format: 'vmdk', size: 10 * grain });
    {
      await using image = await openImageFile(dir.file('past.vmdk'), { policy, writable: true });
      await image.write(0, pattern(grain, 1));
    }
    const file = await readFile(dir.file('past.vmdk'));
    const table = file.readUInt32LE(Number(file.readBigUInt64LE(56)) * 512) * 512;
    // Where the next grain goes.
    file.writeUInt32LE(file.length / 512, table + 5 * 4);
    await writeFile(dir.file('past.vmdk'), file);
    {
      await using image = await openImageFile(dir.file('past.vmdk'), { policy, writable: true });
      await expect(image.write(3 * grain, pattern(grain, 2))).rejects.toMatchObject({
        code: 'corrupt',
        field: 'grain table',
      });
    }
    await using image = await openImageFile(dir.file('past.vmdk'), { policy });
    const first = new Uint8Array(grain);
    await image.read(0, first);
    expectSame(first, pattern(grain, 1));
  });

  it('is checked: copies, entries past the end, and two of one grain', async () => {
    await createImageFile(dir.file('ch.vmdk'), { format: 'vmdk', size: 10 * grain });
    {
      await using image = await openImageFile(dir.file('ch.vmdk'), { policy, writable: true });
      await image.write(0, pattern(3 * grain, 1));
    }
    const sound = await readFile(dir.file('ch.vmdk'));
    const table = sound.readUInt32LE(Number(sound.readBigUInt64LE(56)) * 512) * 512;
    const found = async (change: (file: Buffer) => void) => {
      const file = Buffer.from(sound);
      change(file);
      await writeFile(dir.file('ch.vmdk'), file);
      await using image = await openImageFile(dir.file('ch.vmdk'), { policy });
      const { corruptions, leaks } = await checkImage(image.layer);
      return [corruptions, leaks];
    };
    expect(await found(() => undefined)).toEqual([0, 0]);
    expect(await found((file) => file.writeUInt32LE(0x7fffff, table + 20))).toEqual([1, 1]);
    expect(await found((file) => file.copy(file, table + 4, table, table + 4))).toEqual([1, 1]);
    expect(await found((file) => file.writeUInt32LE(21, table))).toEqual([1, 1]);
    expect(await found((file) => file.writeUInt32LE(0, table))).toEqual([0, 1]);
  });
});

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('a parent', () => {
  it('must be the one that the overlay was made on', async () => {
    const { path: cwd } = dir;
    await mustRun('qemu-img', ['create', '-q', '-f', 'vmdk', 'base.vmdk', '1M'], { cwd });
    await mustRun('qemu-io', ['-c', 'write -P 1 0 1M', 'base.vmdk'], { cwd });
    for (const [name, make] of [['q', mustRun]] as const) {
      await make(
        'qemu-img',
        ['create', '-q', '-f', 'vmdk', '-b', 'base.vmdk', '-F', 'vmdk', `${name}.vmdk`],
        { cwd },
      );
    }
    const backing = { path: 'base.vmdk', format: 'vmdk' };
    await createImageFile(dir.file('o.vmdk'), { format: 'vmdk', size: 1 << 20, backing });
    for (const name of ['q.vmdk', 'o.vmdk']) {
      {
        await using image = await openImageFile(dir.file(name), { policy, writable: true });
        await image.write(1000, pattern(100, 1));
      }
      const model = new Uint8Array(1 << 20).fill(1);
      model.set(pattern(100, 1), 1000);
      expectSame(await content(name), model);
      expectSame(await theirs(name), model);
    }
    await mustRun('qemu-io', ['-c', 'write -P 2 0 64k', 'base.vmdk'], { cwd });
    await expect(openImageFile(dir.file('o.vmdk'), { policy })).rejects.toMatchObject({ field: 'parentCID' });
    const read = await run('qemu-io', ['-c', 'read 512k 64k', 'o.vmdk'], { cwd });
    expect(read.stdout + read.stderr).toContain('Invalid argument');
    await mkdir(dir.file('raw'));
    await writeFile(dir.file('raw/base'), new Uint8Array(4096));
    const wrong = { format: 'vmdk', size: 4096, backing: { path: 'base' } };
    await expect(createImageFile(dir.file('raw/x.vmdk'), wrong)).rejects.toThrow('Must be vmdk');
  });
});

describe.skipIf(!have('qemu-img'))('a commit into the parent', () => {
  it('leaves an overlay that both open; one that was cut short says what to do', async () => {
    const { path: cwd } = dir;
    await mustRun('qemu-img', ['create', '-q', '-f', 'vmdk', 'cb.vmdk', '1M'], { cwd });
    await createImageFile(dir.file('co.vmdk'), {
      format: 'vmdk',
      size: 1 << 20,
      backing: { path: 'cb.vmdk', format: 'vmdk' },
    });
    const model = new Uint8Array(1 << 20);
    model.set(pattern(70_000, 4), 300_000);
    {
      await using image = await openImageFile(dir.file('co.vmdk'), { policy, writable: true });
      await image.write(300_000, pattern(70_000, 4));
    }
    const before = await readFile(dir.file('co.vmdk'));
    {
      const how = { policy, writable: true, writableBacking: 1, corruptDependents: true };
      await using image = await openImageFile(dir.file('co.vmdk'), how);
      await commitImage(image, { depth: 1 });
    }
    for (const name of ['co.vmdk', 'cb.vmdk']) {
      expectSame(await content(name), model);
      expectSame(await theirs(name), model);
    }
    await writeFile(dir.file('co.vmdk'), before);
    // qemu-img writes it without zeroes in front.
    const parent = /^CID=([0-9a-f]{1,8})$/m.exec(await readFile(dir.file('cb.vmdk'), 'latin1'))![1];
    const cid = parent.padStart(8, '0');
    await expect(openImageFile(dir.file('co.vmdk'), { policy })).rejects.toMatchObject({
      code: 'changed',
      message: expect.stringContaining(`write parentCID=${cid} into its descriptor`),
    });
    const mended = before.toString('latin1').replace(/parentCID=[0-9a-f]{8}/, `parentCID=${cid}`);
    await writeFile(dir.file('co.vmdk'), mended, 'latin1');
    expectSame(await content('co.vmdk'), model);
  });
});

describe.skipIf(!have('qemu-img'))('a disk of 3 TiB', () => {
  // In 1536 files it takes a minute.
  const long = process.env.COWHERD_LONG ? ['twoGbMaxExtentSparse'] : [];
  it.each(['monolithicSparse', 'streamOptimized', ...long])(
    'is the same to both as %s',
    async (subformat) => {
      const size = 3 * 2 ** 40;
      const { path: cwd } = dir;
      const name = `big-${subformat}.vmdk`;
      const stream = subformat === 'streamOptimized';
      await createImageFile(dir.file(name), { format: 'vmdk', size, options: { subformat } });
      const places = [0, 2 ** 41 - grain, size - grain];
      {
        await using image = await openImageFile(dir.file(name), { policy, writable: true });
        for (const at of places) {
          if (stream) await image.writePacked(at, new Uint8Array(grain).fill(9));
          else await image.write(at, new Uint8Array(grain).fill(9));
        }
      }
      const commands = places.flatMap((at) => ['-c', `read -P 9 ${at} 64k`]);
      const said = await run('qemu-io', ['-r', '-f', 'vmdk', ...commands, '-c', 'read -P 0 64k 64k', name], {
        cwd,
      });
      expect(said.stdout + said.stderr).not.toMatch(/failed|not open|error/i);
      await mustRun('rm', ['-f', name]);
    },
  );
});
