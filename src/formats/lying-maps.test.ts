import { describe, expect, it } from 'vitest';
import { createImage, openImage } from '../image/open.ts';
import { MemoryStore } from '../storage/memory.ts';

const KiB = 1024;

interface Liar {
  readonly name: string;
  readonly format: string;
  readonly options?: Readonly<Record<string, string | number | boolean>>;
  readonly size?: number;
  /** Changes the image of which the first and the third piece hold data. */
  lie(view: DataView, bytes: Uint8Array): void;
  /** Refused when it is opened; else when the third piece is written. */
  readonly atOpening: boolean;
}

const u64 = (view: DataView, at: number, little: boolean) => Number(view.getBigUint64(at, little));

/** What must not be written, since that would go over the header, a table, or the data of another place. */
const liars: readonly Liar[] = [
  {
    name: 'VDI with blocks over its header',
    format: 'vdi',
    lie: (view) => view.setUint32(0x158, 0, true),
    atOpening: true,
  },
  {
    name: 'VDI with blocks over its block map',
    format: 'vdi',
    lie: (view) => view.setUint32(0x158, 512, true),
    atOpening: true,
  },
  {
    name: 'VDI with a block that two entries name',
    format: 'vdi',
    lie: (view) => view.setUint32(u32(view, 0x154) + 8, 0, true),
    atOpening: true,
  },
  {
    name: 'Parallels with a cluster over its table',
    format: 'parallels',
    options: { cluster_size: 64 * KiB },
    // In sectors, as the older kind counts.
    lie(view, bytes) {
      bytes.set(new TextEncoder().encode('WithoutFreeSpace'));
      view.setUint32(64, 0, true);
      view.setUint32(64 + 2 * 4, 0, true);
      view.setUint32(68, 1, true);
      view.setUint32(32, 512, true);
    },
    atOpening: true,
  },
  {
    name: 'Parallels with a cluster that two entries name',
    format: 'parallels',
    options: { cluster_size: 64 * KiB },
    lie: (view) => view.setUint32(64 + 2 * 4, view.getUint32(64, true), true),
    atOpening: true,
  },
  {
    name: 'qcow with a cluster over its L1 table',
    format: 'qcow',
    lie: (view) => view.setBigUint64(u64(view, 48, false) + (8 * (128 * KiB)) / 4096, 512n),
    atOpening: false,
  },
  {
    name: 'qcow with a cluster past the end of the file',
    format: 'qcow',
    lie: (view) =>
      view.setBigUint64(u64(view, 48, false) + (8 * (128 * KiB)) / 4096, BigInt(view.byteLength + 4096)),
    atOpening: false,
  },
  {
    name: 'QED with a cluster over its L1 table',
    format: 'qed',
    lie: (view) =>
      view.setBigUint64(u64(view, u64(view, 40, true), true) + 16, BigInt(u64(view, 40, true)), true),
    atOpening: false,
  },
  {
    name: 'VHDX with a block over its table',
    format: 'vhdx',
    options: { block_size: 1024 * KiB },
    size: 4096 * KiB,
    lie(view) {
      // The region table's entries: the block allocation table is the first.
      const table = u64(view, 192 * KiB + 16 + 16, true);
      view.setBigUint64(table + 16, BigInt(table) + 6n, true);
    },
    atOpening: true,
  },
];

function u32(view: DataView, at: number): number {
  return view.getUint32(at, true);
}

describe('an image that was corrupt before is not made worse', () => {
  it.each(liars)('$name', async ({ format, options, size, lie, atOpening }) => {
    const store = new MemoryStore();
    await createImage(store, format, size ?? (format === 'vdi' ? 4096 : 512) * KiB, options ?? {});
    const open = (writable: boolean) => openImage(store, { format, writable });
    const piece = format === 'vdi' || format === 'vhdx' ? 1024 * KiB : 64 * KiB;
    {
      await using image = await open(true);
      for (const at of [0, 2 * piece]) await image.write(at, new Uint8Array(piece).fill(1));
    }
    const bytes = new Uint8Array(store.size);
    await store.read(0, bytes);
    lie(new DataView(bytes.buffer), bytes);
    await store.write(0, bytes);
    const refused = { code: 'corrupt' };
    if (atOpening) await expect(open(true)).rejects.toMatchObject(refused);
    else {
      await using image = await open(true);
      await expect(image.write(2 * piece, new Uint8Array(512).fill(2))).rejects.toMatchObject(refused);
    }
    const after = new Uint8Array(store.size);
    await store.read(0, after);
    expect(Buffer.compare(after, bytes)).toBe(0);
  });
});
