import { open, readFile, writeFile } from 'node:fs/promises';

/*
 * VHD and VHDX images as Hyper-V writes them and QEMU does not, put together by the letter of their specifications and
 * with none of the code that they test.
 */

const MiB = 1024 * 1024;

/** CRC-32C, bit by bit. */
export function crc(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  }
  return ~value >>> 0;
}

/** Puts the checksum of a VHDX structure into its bytes 4 to 7. */
function sealed(bytes: Buffer): Buffer {
  bytes.writeUInt32LE(0, 4);
  bytes.writeUInt32LE(crc(bytes), 4);
  return bytes;
}

export interface LogEntryPlan {
  readonly guid: Uint8Array;
  readonly sequence: number;
  /** Where in the log the sequence begins that this entry ends. */
  readonly tail: number;
  readonly flushed?: number;
  readonly last?: number;
  readonly patches: readonly { readonly at: number; readonly bytes?: Uint8Array; readonly zeroes?: number }[];
}

/** An entry of a VHDX log. */
export function logEntry(plan: LogEntryPlan): Buffer {
  const data = plan.patches.filter(({ bytes }) => bytes);
  const bytes = Buffer.alloc(4096 * (1 + data.length));
  bytes.write('loge', 0, 'latin1');
  bytes.writeUInt32LE(bytes.length, 8);
  bytes.writeUInt32LE(plan.tail, 12);
  bytes.writeBigUInt64LE(BigInt(plan.sequence), 16);
  bytes.writeUInt32LE(plan.patches.length, 24);
  bytes.set(plan.guid, 32);
  bytes.writeBigUInt64LE(BigInt(plan.flushed ?? 0), 48);
  bytes.writeBigUInt64LE(BigInt(plan.last ?? 0), 56);
  let sector = 4096;
  for (const [index, patch] of plan.patches.entries()) {
    const at = 64 + index * 32;
    bytes.writeBigUInt64LE(BigInt(patch.at), at + 16);
    bytes.writeBigUInt64LE(BigInt(plan.sequence), at + 24);
    if (!patch.bytes) {
      bytes.write('zero', at, 'latin1');
      bytes.writeBigUInt64LE(BigInt(patch.zeroes!), at + 8);
      continue;
    }
    bytes.write('desc', at, 'latin1');
    bytes.set(patch.bytes.subarray(4092), at + 4);
    bytes.set(patch.bytes.subarray(0, 8), at + 8);
    bytes.set(patch.bytes, sector);
    bytes.write('data', sector, 'latin1');
    bytes.writeUInt32LE(Math.floor(plan.sequence / 2 ** 32), sector + 4);
    bytes.writeUInt32LE(plan.sequence % 2 ** 32, sector + 4092);
    sector += 4096;
  }
  return sealed(bytes);
}

/** Writes entries into the log of a VHDX made by qemu-img, and the log's identifier into its current header. */
export async function writeLog(
  path: string,
  guid: Uint8Array,
  entries: readonly { readonly at: number; readonly bytes: Uint8Array }[],
): Promise<void> {
  await using file = await open(path, 'r+');
  for (const { at, bytes } of entries) await file.write(bytes, 0, bytes.length, MiB + at);
  const headers = await Promise.all(
    [64 * 1024, 128 * 1024].map(async (at) => {
      const bytes = Buffer.alloc(4096);
      await file.read(bytes, 0, 4096, at);
      return { at, bytes, sequence: bytes.readBigUInt64LE(8) };
    }),
  );
  const current = headers[0].sequence > headers[1].sequence ? headers[0] : headers[1];
  current.bytes.set(guid, 48);
  await file.write(sealed(current.bytes), 0, 4096, current.at);
}

/** Changes bytes of a file. */
export async function patchFile(path: string, at: number, bytes: Uint8Array): Promise<void> {
  await using file = await open(path, 'r+');
  await file.write(bytes, 0, bytes.length, at);
}

/** Where qemu-img puts things in a VHDX with a log of 1 MiB and a table of 1 MiB. */
export const vhdxPlaces = { bat: 2 * MiB, metadata: 3 * MiB, items: 3 * MiB + 64 * 1024 } as const;

/** Makes a VHDX of qemu-img's into one with sectors of 4096 bytes. */
export async function setLargeSectors(path: string): Promise<void> {
  const size = Buffer.alloc(8);
  size.writeUInt32LE(4096, 0);
  size.writeUInt32LE(4096, 4);
  await patchFile(path, vhdxPlaces.items + 32, size);
}

/** The data write identifier of a VHDX's current header, as Windows writes it. */
export async function dataWriteId(path: string): Promise<string> {
  const bytes = await readFile(path);
  const [first, second] = [64 * 1024, 128 * 1024];
  const at = bytes.readBigUInt64LE(first + 8) > bytes.readBigUInt64LE(second + 8) ? first : second;
  const id = bytes.subarray(at + 32, at + 48);
  const hex = (from: number, to: number) => id.subarray(from, to).toString('hex');
  const swapped = (from: number, to: number) => Buffer.from(id.subarray(from, to)).reverse().toString('hex');
  return `{${swapped(0, 4)}-${swapped(4, 6)}-${swapped(6, 8)}-${hex(8, 10)}-${hex(10, 16)}}`;
}

/** Sectors of one block that a differencing disk has itself. */
export interface OwnSectors {
  readonly block: number;
  readonly from: number;
  readonly bytes: Uint8Array;
}

/** Makes a VHDX of qemu-img's (blocks of 1 MiB, block_state_zero=off) into a differencing one over a parent. */
export async function makeDifferencingVhdx(
  path: string,
  locator: Readonly<Record<string, string>>,
  own: readonly OwnSectors[],
): Promise<void> {
  const item = Buffer.alloc(65536);
  Buffer.from('b7ef4ab09ed1814ab78925b8e9445913', 'hex').copy(item, 0);
  const pairs = Object.entries(locator);
  item.writeUInt16LE(pairs.length, 18);
  let place = 20 + 12 * pairs.length;
  for (const [index, [key, value]] of pairs.entries()) {
    const at = 20 + index * 12;
    item.writeUInt32LE(place, at);
    item.writeUInt16LE(key.length * 2, at + 8);
    place += item.write(key, place, 'utf16le');
    item.writeUInt32LE(place, at + 4);
    item.writeUInt16LE(value.length * 2, at + 10);
    place += item.write(value, place, 'utf16le');
  }
  const entry = Buffer.alloc(32);
  Buffer.from('2d5fd3a80bb34d45abf7d3d84834ab0c', 'hex').copy(entry, 0);
  entry.writeUInt32LE(128 * 1024, 16);
  entry.writeUInt32LE(place, 20);
  entry.writeUInt32LE(4, 24);
  await patchFile(path, vhdxPlaces.metadata + 32 + 5 * 32, entry);
  await patchFile(path, vhdxPlaces.metadata + 10, Uint8Array.of(6, 0));
  await patchFile(path, vhdxPlaces.metadata + 128 * 1024, item.subarray(0, place));
  await patchFile(path, vhdxPlaces.items + 4, Uint8Array.of(2));
  // The chunk's bitmap block, and then each block that is there in part.
  const chunkRatio = 4096;
  let end = 16;
  const bitmapAt = end++ * MiB;
  await patchFile(path, vhdxPlaces.bat + chunkRatio * 8, batEntry(bitmapAt, 6));
  const bitmap = Buffer.alloc(MiB);
  const placed = new Map<number, number>();
  for (const { block, from, bytes } of own) {
    const at = placed.get(block) ?? end++ * MiB;
    placed.set(block, at);
    await patchFile(path, at + MiB - 1, new Uint8Array(1));
    await patchFile(path, vhdxPlaces.bat + block * 8, batEntry(at, 7));
    await patchFile(path, at + from * 512, bytes);
    for (let sector = from; sector < from + bytes.length / 512; sector++) {
      const bit = block * 2048 + sector;
      bitmap[bit >> 3] |= 1 << (bit & 7);
    }
  }
  await patchFile(path, bitmapAt, bitmap);
}

function batEntry(at: number, state: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(at) + BigInt(state));
  return bytes;
}

function vhdSum(bytes: Uint8Array): number {
  return ~bytes.reduce((sum, byte) => sum + byte, 0) >>> 0;
}

export interface VhdLocator {
  readonly platform: 'W2ru' | 'W2ku' | 'MacX';
  readonly path: string;
}

/** Writes a differencing VHD over `parent`, a dynamic one of qemu-img's. Blocks of 2 MiB. */
export async function writeDifferencingVhd(
  path: string,
  parent: string,
  locators: readonly VhdLocator[],
  own: readonly OwnSectors[],
  parentName = '',
): Promise<void> {
  const old = await readFile(parent);
  const footer = Buffer.from(old.subarray(0, 512));
  const header = Buffer.from(old.subarray(512, 1536));
  const entries = header.readUInt32BE(28);
  footer.writeUInt32BE(4, 60);
  footer.set(Buffer.from('00112233445566778899aabbccddeeff', 'hex'), 68);
  footer.writeUInt32BE(0, 64);
  footer.writeUInt32BE(vhdSum(footer), 64);
  header.set(old.subarray(68, 84), 40);
  header.writeUInt32BE(old.readUInt32BE(24), 56);
  for (let index = 0; index < parentName.length; index++) {
    header.writeUInt16BE(parentName.charCodeAt(index), 64 + index * 2);
  }
  const table = Buffer.alloc(Math.ceil((entries * 4) / 512) * 512, 0xff);
  let end = 1536 + table.length;
  const paths: Buffer[] = [];
  for (const [index, { platform, path: name }] of locators.entries()) {
    const bytes = Buffer.from(name, platform === 'MacX' ? 'utf8' : 'utf16le');
    const at = 576 + index * 24;
    header.write(platform, at, 'latin1');
    header.writeUInt32BE(512, at + 4);
    header.writeUInt32BE(bytes.length, at + 8);
    header.writeBigUInt64BE(BigInt(end), at + 16);
    paths.push(Buffer.concat([bytes, Buffer.alloc(512 - bytes.length)]));
    end += 512;
  }
  header.writeUInt32BE(0, 36);
  header.writeUInt32BE(vhdSum(header), 36);
  const blocks = new Map<number, Buffer>();
  for (const { block, from, bytes } of own) {
    if (!blocks.has(block)) {
      blocks.set(block, Buffer.alloc(512 + 2 * MiB));
      table.writeUInt32BE((end + (blocks.size - 1) * (512 + 2 * MiB)) / 512, block * 4);
    }
    const content = blocks.get(block)!;
    content.set(bytes, 512 + from * 512);
    for (let sector = from; sector < from + bytes.length / 512; sector++) {
      content[sector >> 3] |= 0x80 >> (sector & 7);
    }
  }
  await writeFile(path, Buffer.concat([footer, header, table, ...paths, ...blocks.values(), footer]));
}
