import { existsSync } from 'node:fs';
import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { createAside } from '../../platform/atomic-file.ts';
import { openFileStore } from '../../storage/file.ts';
import type { ByteStore, OnProgress } from '../../storage/store.ts';
import { seatProgram } from './program.ts';
import { encodeRecord, parseRecord, recordBytes, recordOffset, type SeatRecord } from './record.ts';

export interface DemoMasterOptions {
  /** Bytes, a multiple of 512, at least 2 MiB. Default 64 MiB. What the payload leaves is a hole. */
  readonly size?: number;
  /** Printed by every seat. Printable ASCII without blanks, at most 63 characters. Default `demo`. */
  readonly label?: string;
  /** Bytes of ballast, so that a copy costs something. Default 24 MiB, or what `size` has room for. */
  readonly payloadBytes?: number;
  readonly onProgress?: OnProgress;
}

const mebibyte = 1024 * 1024;
const sectorBytes = 512;
/** Where the one partition begins, and the ballast in it; 1 MiB as partitioning programs do. */
const partitionStart = mebibyte;
const minBytes = 2 * mebibyte;

/**
 * Writes the demo's golden image, raw: the boot program and a partition table, an unnamed record with no boots,
 * and some ballast that compresses to about half. The same options give the same bytes. A path must not exist
 * yet and appears only when the image is whole. Throws `bad-argument`, `exists`, and what the store throws.
 */
export async function makeDemoMaster(
  target: ByteStore | string,
  options: DemoMasterOptions = {},
): Promise<void> {
  if (typeof target !== 'string') return writeMaster(target, options);
  if (existsSync(target)) throw new DiskError('exists', `'${target}' exists already`, { path: target });
  await using aside = createAside(target);
  {
    await using store = await openFileStore(aside.path, { create: 'exclusive', name: target });
    await writeMaster(store, options);
  }
  await aside.commit({ replace: false });
}

async function writeMaster(store: ByteStore, options: DemoMasterOptions): Promise<void> {
  const size = options.size ?? 64 * mebibyte;
  if (!Number.isSafeInteger(size) || size % sectorBytes !== 0 || size < minBytes) {
    throw new DiskError(
      'bad-argument',
      `A demo master has whole sectors and at least 2 MiB, not ${size} bytes`,
      {
        path: store.name,
        field: 'size',
        detail: { size },
      },
    );
  }
  const label = options.label ?? 'demo';
  const record = encodeRecord({ seat: '', master: label, boots: 0 });
  const payload = Math.min(options.payloadBytes ?? 24 * mebibyte, size - partitionStart);
  await store.resize(0);
  await store.resize(size);
  await writePayload(store, payload, options.onProgress);
  await store.write(recordOffset(), record);
  // The boot sector last: what boots is whole.
  await store.write(0, bootSectors(size, label));
}

/** The guest's program with the disk's signature and its one partition entry. */
function bootSectors(size: number, label: string): Uint8Array {
  const { bytes, origin, symbols } = seatProgram();
  const sectors = bytes.slice();
  const view = new DataView(sectors.buffer);
  view.setUint32(symbols.get('signature')! - origin, labelHash(label), true);
  const entry = symbols.get('partition_table')! - origin;
  const beyondCylinders = [0xfe, 0xff, 0xff];
  sectors[entry] = 0x80;
  sectors.set(beyondCylinders, entry + 1);
  // "Non-file-system data": no operating system offers to format it or to mount it.
  sectors[entry + 4] = 0xda;
  sectors.set(beyondCylinders, entry + 5);
  view.setUint32(entry + 8, partitionStart / sectorBytes, true);
  view.setUint32(entry + 12, Math.min((size - partitionStart) / sectorBytes, 0xffffffff), true);
  return sectors;
}

/** FNV-1a of 32 bits; any number serves that differs between masters. */
function labelHash(label: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < label.length; i++) hash = Math.imul(hash ^ label.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** Ballast: in every 4 KiB, half is noise that occurs nowhere else, and half repeats. */
async function writePayload(store: ByteStore, length: number, onProgress?: OnProgress): Promise<void> {
  const piece = new Uint8Array(mebibyte);
  const words = new Uint32Array(piece.buffer);
  const blockWords = 1024;
  let noise = 0x9e3779b9;
  for (let done = 0; done < length; ) {
    for (let block = 0; block < words.length; block += blockWords) {
      for (let i = block; i < block + blockWords / 2; i++) {
        noise ^= noise << 13;
        noise ^= noise >>> 17;
        noise ^= noise << 5;
        words[i] = noise;
      }
      words.fill(0x68776f63, block + blockWords / 2, block + blockWords);
    }
    const count = Math.min(piece.length, length - done);
    await store.write(partitionStart + done, piece.subarray(0, count));
    done += count;
    onProgress?.(done, length);
  }
}

/**
 * Names a seat's disk: writes the record with this name and no boots. One sector, so one cluster of an overlay.
 * Throws `bad-argument` for a disk that is not a demo guest's, or a name that does not fit.
 */
export async function stampSeat(image: Image, seatName: string): Promise<void> {
  const record = await readRecord(image);
  if (!record) {
    throw new DiskError(
      'bad-argument',
      `'${image.layer.source.name}' is no disk of the demo guest: it holds no record`,
      {
        path: image.layer.source.name,
        offset: recordOffset(),
        field: 'magic',
      },
    );
  }
  await image.write(recordOffset(), encodeRecord({ ...record, seat: seatName, boots: 0 }));
}

/** The record on a demo guest's disk; undefined for any other disk. */
export async function readRecord(image: Pick<Image, 'size' | 'read'>): Promise<SeatRecord | undefined> {
  const at = recordOffset();
  if (image.size < at + recordBytes) return undefined;
  const sector = new Uint8Array(recordBytes);
  await image.read(at, sector);
  return parseRecord(sector);
}
