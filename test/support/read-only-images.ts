import { deflateSync } from 'node:zlib';

/* Images of formats that are only read, made from their descriptions: nothing that is installed writes them. */

export function cloopImage(content: Uint8Array, blockSize: number): Buffer {
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
export function bochsImage(
  content: Uint8Array,
  version: number,
  hole: number,
): { file: Buffer; model: Uint8Array } {
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

export interface DmgChunk {
  readonly type: number;
  readonly sectors: number;
  readonly bytes?: Buffer;
}

export function dmgImage(chunks: readonly DmgChunk[]): Buffer {
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
