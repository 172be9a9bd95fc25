import { writeFile } from 'node:fs/promises';
import { deflateSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { pattern, readAll } from '../../test/contract/model.ts';
import { have, run, type TempDir, tempDir } from '../../test/support/programs.ts';
import { openImage } from '../image/open.ts';
import { MemoryStore } from '../storage/memory.ts';

/* Images made here from the formats' descriptions: nothing that is installed writes them. qemu-img judges them. */

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir();
});
afterAll(() => dir.remove());

function cloopImage(content: Uint8Array, blockSize: number): Buffer {
  const blocks: Buffer[] = [];
  for (let at = 0; at < content.length; at += blockSize) {
    blocks.push(deflateSync(content.subarray(at, at + blockSize)));
  }
  const head = Buffer.alloc(136 + (blocks.length + 1) * 8);
  head.write('#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n');
  head.writeUInt32BE(blockSize, 128);
  head.writeUInt32BE(blocks.length, 132);
  let at = head.length;
  for (const [index, block] of [...blocks, Buffer.alloc(0)].entries()) {
    head.writeBigUInt64BE(BigInt(at), 136 + index * 8);
    at += block.length;
  }
  return Buffer.concat([head, ...blocks]);
}

/** Extents of 8 sectors; the one at `hole` is not there, and of the others every third sector. */
function bochsImage(content: Uint8Array, version: number, hole: number): { file: Buffer; model: Uint8Array } {
  const extent = 4096;
  const entries = Math.ceil(content.length / extent);
  const head = Buffer.alloc(512 + entries * 4, 0);
  head.write('Bochs Virtual HD Image');
  head.write('Redolog', 32);
  head.write('Growing', 48);
  for (const [index, value] of [version, 512, entries, 1, extent].entries())
    head.writeUInt32LE(value, 64 + index * 4);
  head.writeBigUInt64LE(BigInt(content.length), version === 0x10000 ? 84 : 88);
  const model = content.slice();
  const extents: Buffer[] = [];
  // Extents lie in the file in the opposite order.
  for (let index = entries - 1; index >= 0; index--) {
    if (index === hole) {
      head.writeUInt32LE(0xffff_ffff, 512 + index * 4);
      model.fill(0, index * extent, (index + 1) * extent);
      continue;
    }
    head.writeUInt32LE(extents.length, 512 + index * 4);
    const part = Buffer.alloc(512 + extent, 0xee);
    part.fill(0, 0, 512);
    for (let sector = 0; sector < 8; sector++) {
      const from = index * extent + sector * 512;
      if (from >= content.length) break;
      if (sector % 3 === 2) model.fill(0, from, from + 512);
      else {
        part[0] |= 1 << sector;
        part.set(content.subarray(from, from + 512), 512 + sector * 512);
      }
    }
    extents.push(part);
  }
  return { file: Buffer.concat([head, ...extents]), model };
}

interface DmgChunk {
  readonly type: number;
  readonly sectors: number;
  readonly bytes?: Buffer;
}

function dmgImage(chunks: readonly DmgChunk[]): Buffer {
  const table = Buffer.alloc(204 + (chunks.length + 1) * 40);
  const total = chunks.reduce((sum, { sectors }) => sum + sectors, 0);
  table.write('mish');
  table.writeUInt32BE(1, 4);
  table.writeBigUInt64BE(BigInt(total), 16);
  table.writeUInt32BE(chunks.length + 1, 200);
  let sector = 0;
  let at = 0;
  for (const [index, { type, sectors, bytes }] of [
    ...chunks,
    { type: 0xffff_ffff, sectors: 0, bytes: undefined },
  ].entries()) {
    const entry = 204 + index * 40;
    table.writeUInt32BE(type, entry);
    table.writeBigUInt64BE(BigInt(sector), entry + 8);
    table.writeBigUInt64BE(BigInt(sectors), entry + 16);
    table.writeBigUInt64BE(BigInt(at), entry + 24);
    table.writeBigUInt64BE(BigInt(bytes?.length ?? 0), entry + 32);
    sector += sectors;
    at += bytes?.length ?? 0;
  }
  const data = table.toString('base64').replace(/(.{52})/g, '$1\n\t\t\t\t');
  const plist = Buffer.from(
    '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0">\n<dict>\n<key>resource-fork</key>\n<dict>\n' +
      `<key>blkx</key>\n<array>\n<dict>\n<key>Data</key>\n<data>\n${data}\n</data>\n</dict>\n</array>\n</dict>\n</dict>\n</plist>\n`,
  );
  const trailer = Buffer.alloc(512);
  trailer.write('koly');
  trailer.writeUInt32BE(4, 4);
  trailer.writeUInt32BE(512, 8);
  trailer.writeBigUInt64BE(BigInt(at), 0x20);
  trailer.writeBigUInt64BE(BigInt(at), 0xd8);
  trailer.writeBigUInt64BE(BigInt(plist.length), 0xe0);
  trailer.writeUInt32BE(1, 0x1e8);
  trailer.writeBigUInt64BE(BigInt(total), 0x1ec);
  return Buffer.concat([...chunks.map(({ bytes }) => bytes ?? Buffer.alloc(0)), plist, trailer]);
}

async function contentOf(file: Uint8Array, format: string): Promise<Uint8Array> {
  await using image = await openImage(new MemoryStore({ name: `x.${format}`, bytes: file }));
  expect(image.layer.format).toBe(format);
  return readAll(image);
}

async function expectJudged(file: Uint8Array, format: string, content: Uint8Array): Promise<void> {
  expect(Buffer.compare(await contentOf(file, format), content)).toBe(0);
  if (!have('qemu-img')) return;
  await writeFile(dir.file(`x.${format}`), file);
  await writeFile(dir.file('content'), content);
  const judged = await run('qemu-img', ['compare', '-f', 'raw', '-F', format, 'content', `x.${format}`], {
    cwd: dir.path,
  });
  expect(judged.stdout, judged.stderr).toBe('Images are identical.\n');
}

describe('cloop', () => {
  it('reads as QEMU reads it', async () => {
    const content = pattern(16 * 4096, 3);
    content.fill(0, 5000, 30_000);
    await expectJudged(cloopImage(content, 4096), 'cloop', content);
  });

  it('refuses headers that lie, and to be written', async () => {
    const file = cloopImage(pattern(8192, 1), 4096);
    for (const [at, value, field] of [
      [128, 0, 'block_size'],
      [128, 1000, 'block_size'],
      [132, 0xffff_ffff, 'n_blocks'],
      [132, 1000, 'offsets'],
      [144, 1, 'offsets'],
    ] as const) {
      const liar = Buffer.from(file);
      liar.writeUInt32BE(value, at);
      await expect(contentOf(liar, 'cloop')).rejects.toMatchObject({ code: 'corrupt', field });
    }
    const store = new MemoryStore({ bytes: file });
    await expect(openImage(store, { format: 'cloop', writable: true })).rejects.toMatchObject({
      code: 'read-only',
    });
  });
});

describe('bochs', () => {
  it.each([0x10000, 0x20000])('version %i reads as QEMU reads it', async (version) => {
    const { file, model } = bochsImage(pattern(5 * 4096 + 1024, 7), version, 2);
    await expectJudged(file, 'bochs', model);
  });

  it('refuses headers that lie', async () => {
    const { file } = bochsImage(pattern(8192, 1), 0x20000, 9);
    for (const [at, value, field] of [
      [72, 0x20_0000, 'catalog'],
      [72, 1, 'catalog'],
      [80, 1000, 'extent'],
      [80, 0x100_0000, 'extent'],
      [76, 0, 'bitmap'],
    ] as const) {
      const liar = Buffer.from(file);
      liar.writeUInt32LE(value, at);
      await expect(contentOf(liar, 'bochs')).rejects.toMatchObject({ code: 'corrupt', field });
    }
    const liar = Buffer.from(file);
    liar.writeUInt32LE(77, 512);
    await expect(contentOf(liar, 'bochs')).rejects.toMatchObject({ code: 'corrupt', field: 'catalog' });
  });
});

describe('dmg', () => {
  const content = pattern(48 * 512, 5);
  const part = (from: number, to: number) => Buffer.from(content.subarray(from * 512, to * 512));
  const model = Uint8Array.from(content);
  model.fill(0, 16 * 512, 32 * 512);

  it('reads zero, raw and zlib chunks as QEMU reads them', async () => {
    const file = dmgImage([
      { type: 0x8000_0005, sectors: 10, bytes: deflateSync(part(0, 10)) },
      { type: 1, sectors: 6, bytes: part(10, 16) },
      { type: 0, sectors: 8 },
      { type: 2, sectors: 8 },
      { type: 0x8000_0005, sectors: 16, bytes: deflateSync(part(32, 48)) },
    ]);
    await expectJudged(file, 'dmg', model);
  });

  it('names the compressions that it cannot undo', async () => {
    for (const [type, name] of [
      [0x8000_0004, 'ADC'],
      [0x8000_0006, 'bzip2'],
      [0x8000_0007, 'LZFSE'],
      [0x8000_0008, 'LZMA'],
    ] as const) {
      const file = dmgImage([{ type, sectors: 16, bytes: Buffer.alloc(50) }]);
      await expect(contentOf(file, 'dmg')).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining(name),
      });
    }
  });

  it('refuses tables that lie', async () => {
    const liars: readonly (readonly [DmgChunk[], string])[] = [
      [[{ type: 1, sectors: 100, bytes: Buffer.alloc(512) }], 'CompressedLength'],
      [[{ type: 0x8000_0005, sectors: 200_000, bytes: Buffer.alloc(512) }], 'SectorCount'],
    ];
    for (const [chunks, field] of liars) {
      await expect(contentOf(dmgImage(chunks), 'dmg')).rejects.toMatchObject({ code: 'corrupt', field });
    }
    const broken = dmgImage([{ type: 0x8000_0005, sectors: 4, bytes: Buffer.alloc(100, 1) }]);
    await expect(contentOf(broken, 'dmg')).rejects.toMatchObject({ code: 'corrupt', field: 'chunk' });
    await expect(contentOf(Buffer.alloc(1000), 'dmg')).rejects.toMatchObject({
      code: 'corrupt',
      field: 'koly',
    });
  });
});
