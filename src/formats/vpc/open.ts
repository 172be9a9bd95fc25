import { DiskError } from '../../errors.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { Layer, OpenContext } from '../driver.ts';
import { scanTable } from '../mapped/scan-table.ts';
import { BlockLayer, bitmapBytesOf, unused } from './block-layer.ts';
import { DifferencingWriter } from './differencing-writer.ts';
import { type DynamicHeader, dynamicHeaderBytes, parseDynamicHeader } from './dynamic-header.ts';
import { DynamicWriter } from './dynamic-writer.ts';
import { corrupt, unsupported } from './errors.ts';
import { FixedLayer, WritableFixedLayer } from './fixed-layer.ts';
import { type Footer, footerBytes, footerFault, parseFooter } from './footer.ts';
import { guestSize, maxSectors, type SizeCalculation, sectorBytes } from './geometry.ts';
import { readParentReference } from './parent.ts';

/** 64 MiB of table: the largest disk in blocks of 128 KiB. Usual blocks have 2 MiB. */
const maxTableEntries = 16 * 1024 * 1024;

/** Both copies of the footer as they are found, and the one to go by. */
export interface FoundFooters {
  readonly footer: Footer;
  /** The copy at byte 0, of a dynamic or differencing disk. */
  readonly headSound: boolean;
  /** The one at the end. */
  readonly tailSound: boolean;
}

/** Where the last footer begins: versions before Virtual PC 2004 wrote 511 bytes. */
const tailLengths = [footerBytes, footerBytes - 1];

/**
 * Finds a footer: the copy at the start, else the one at the end; either is enough. Throws `corrupt` where there is none
 * that can be true.
 */
export async function readFooters(source: ByteSource): Promise<FoundFooters> {
  const { name: path, size } = source;
  if (size < footerBytes - 1) throw corrupt(path, 'footer', 'File too small for a VHD header');
  const head = await readBytes(source, 0, Math.min(size, footerBytes));
  let tail: Uint8Array = new Uint8Array(footerBytes);
  for (const length of tailLengths) {
    if (length > size) continue;
    const found = await readBytes(source, size - length, length);
    if (footerFault(found) === undefined) {
      tail = found;
      break;
    }
  }
  const headFault = footerFault(head);
  const tailSound = footerFault(tail) === undefined;
  if (headFault === undefined) {
    const footer = parseFooter(head, path);
    // A fixed disk's footer has no copy at the start: what looks like one there is a guest's.
    if (footer.type !== 'fixed') return { footer, headSound: true, tailSound };
  }
  if (tailSound) return { footer: parseFooter(tail, path), headSound: false, tailSound };
  const message = headFault === 'checksum' ? 'Incorrect header checksum' : 'invalid VPC image';
  throw corrupt(path, 'footer', message);
}

export async function openVpc(source: ByteSource, context: OpenContext): Promise<Layer> {
  const { name: path } = source;
  const { footer, headSound, tailSound } = await readFooters(source);
  const size = guestSize(footer, calculationOf(context, path));
  if (size > maxSectors * sectorBytes) {
    throw new DiskError('corrupt', `Could not open '${path}'`, {
      path,
      field: 'size',
      detail: { errno: 'EFBIG', wrapped: true, size },
    });
  }
  if (footer.type === 'fixed') {
    // A size that reaches over the footer would hand it to the guest.
    if (size > source.size - (source.size % sectorBytes === 511 ? 511 : footerBytes)) {
      throw corrupt(path, 'current size', 'The disk is larger than its file');
    }
    return context.writable
      ? new WritableFixedLayer(source as ByteStore, footer, size)
      : new FixedLayer(source, footer, size);
  }
  const header = await readDynamicHeader(source, footer);
  const table = await readTable(source, header, size);
  const backing = footer.type === 'differencing' ? await readParentReference(source, header) : undefined;
  const parts = { footer, headSound, header, size, table, backing };
  if (!context.writable) return new BlockLayer(source, parts);
  return footer.type === 'differencing'
    ? new DifferencingWriter(source as ByteStore, parts, tailSound)
    : new DynamicWriter(source as ByteStore, parts, tailSound);
}

/** Throws `corrupt` in QEMU's words. */
export async function readDynamicHeader(source: ByteSource, footer: Footer): Promise<DynamicHeader> {
  const at = footer.dataOffset!;
  if (at + dynamicHeaderBytes > source.size) {
    throw corrupt(source.name, 'data offset', 'Error reading dynamic VHD header', at);
  }
  return parseDynamicHeader(await readBytes(source, at, dynamicHeaderBytes), source.name);
}

async function readTable(source: ByteSource, header: DynamicHeader, size: number): Promise<Uint32Array> {
  const { name: path } = source;
  const { tableOffset, tableEntries, blockSize } = header;
  if (tableEntries * blockSize < size) throw corrupt(path, 'max table entries', 'Page table too small');
  if (tableEntries > 0x7fff_ffff / 4) {
    throw corrupt(path, 'max table entries', `Max Table Entries too large (${tableEntries | 0})`);
  }
  if (tableOffset % sectorBytes !== 0 || tableOffset + tableEntries * 4 > source.size) {
    throw corrupt(path, 'table offset', 'Error reading pagetable', tableOffset);
  }
  if (tableEntries > maxTableEntries) {
    const message = `Block allocation tables of more than ${maxTableEntries} entries are not supported`;
    throw unsupported(path, 'max table entries', message, { tableEntries });
  }
  const table = new Uint32Array(tableEntries);
  let last = -1;
  const room = { at: tableOffset, entryBytes: 4, entries: tableEntries, field: 'table offset' } as const;
  for await (const { first, count, view } of scanTable(source, room)) {
    for (let index = 0; index < count; index++) {
      const entry = view.getUint32(index * 4);
      table[first + index] = entry;
      if (entry !== unused && entry > last) last = entry;
    }
  }
  if (last >= 0 && last * sectorBytes + bitmapBytesOf(blockSize) + blockSize > source.size) {
    throw corrupt(
      path,
      'block allocation table',
      'block-vpc: free_data_block_offset points after the end of file. The image has been truncated.',
      last * sectorBytes,
    );
  }
  return table;
}

function calculationOf(context: OpenContext, path: string): SizeCalculation {
  const value = context.options?.force_size_calc;
  if (value === undefined) return 'auto';
  if (value === 'chs' || value === 'current_size') return value;
  throw new DiskError('bad-argument', `Invalid size calculation mode: '${value}'`, {
    path,
    field: 'force_size_calc',
    detail: { value: String(value) },
  });
}

async function readBytes(source: ByteSource, at: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await source.read(at, bytes);
  return bytes;
}
