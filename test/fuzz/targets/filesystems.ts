import { readFileSync } from 'node:fs';
import { gunzipSync, gzipSync } from 'node:zlib';
import { crc32Register } from '../../../src/bytes/crc32.ts';
import { crc32c } from '../../../src/bytes/crc32c.ts';
import { DiskError, isDiskError } from '../../../src/errors.ts';
import { openFileSystem } from '../../../src/filesystems/open.ts';
import type { ByteSource } from '../../../src/filesystems/source.ts';
import { walkTree } from '../../../src/filesystems/tree.ts';
import { volumesOf } from '../../../src/filesystems/volumes.ts';
import type { Random } from '../../crash/random.ts';
import type { Meter } from '../meter.ts';
import { Broken, type Input, type Target } from '../target.ts';

interface Lies {
  readonly seed: string;
  readonly edits: readonly (readonly [offset: number, byte: number])[];
  /** Makes checksums true again, so that lies are believed. */
  readonly sealed: boolean;
}
interface Frozen {
  readonly gzip: string;
}

/** Small file systems with lies in them: walked, read, and asked for their free space. */
function fileSystemTarget(
  name: string,
  share: number,
  seeds: Readonly<Record<string, Uint8Array>>,
  seal?: (bytes: Uint8Array) => void,
): Target {
  const names = Object.keys(seeds);
  const bytesOf = (input: Lies | Frozen): Uint8Array => {
    if ('gzip' in input) return gunzipSync(Buffer.from(input.gzip, 'base64'));
    const bytes = seeds[input.seed]!.slice();
    for (const [offset, byte] of input.edits) bytes[offset] = byte;
    if (input.sealed) seal?.(bytes);
    return bytes;
  };
  return {
    name,
    share,
    draw(random: Random): Lies {
      const seed = random.pick(names);
      const bytes = seeds[seed]!;
      const edits = Array.from({ length: random.pick([0, 1, 1, 2, 4, 16]) }, () => {
        let offset = random.chance(0.3) ? random.below(2048) : random.below(bytes.length);
        // Zeroes are mostly free space.
        for (let tries = 0; tries < 20 && bytes[offset] === 0; tries++) offset = random.below(bytes.length);
        return [offset, random.pick([0, 1, 2, 0x7f, 0x80, 0xff, random.below(256)])] as const;
      });
      return { seed, edits, sealed: seal !== undefined && random.chance(0.7) };
    },
    freeze: (input) => ({ gzip: gzipSync(bytesOf(input as Lies | Frozen)).toString('base64') }),
    run: (input: Input, meter: Meter) => feed(bytesOf(input as Lies | Frozen), meter),
  };
}

async function feed(bytes: Uint8Array, meter: Meter): Promise<'accepted' | 'refused'> {
  const source: ByteSource = {
    size: bytes.length,
    async read(offset, into) {
      meter.request();
      if (offset < 0 || offset + into.length > bytes.length) throw new Broken(`a read at ${offset}`);
      into.set(bytes.subarray(offset, offset + into.length));
    },
  };
  let accepted = false;
  const tries = async (work: () => Promise<void>) => {
    try {
      await work();
      accepted = true;
    } catch (error) {
      if (!isDiskError(error)) throw error;
    }
  };
  let logical = false;
  await tries(async () => {
    for (const { pieces, length, bytes: volume, logical: one } of await volumesOf(source)) {
      logical ||= one !== undefined;
      let sum = 0;
      for (const piece of pieces) {
        if (piece.offset < 0 || piece.length <= 0 || piece.offset + piece.length > bytes.length)
          throw new Broken(`a piece at ${piece.offset} of ${piece.length}`);
        sum += piece.length;
      }
      if (pieces.length > 0 && sum !== length) throw new Broken(`pieces of ${sum} bytes of ${length}`);
      await tries(() => volume.read(0, new Uint8Array(Math.min(4096, volume.size))));
    }
  });
  accepted = logical;
  await tries(async () => {
    const system = await openFileSystem(source);
    if (!system) throw new DiskError('unsupported', 'No file system is known by these bytes', {});
    const buffer = new Uint8Array(4096);
    await tries(async () => {
      for await (const { node } of walkTree(system)) {
        if (node.kind === 'symlink') await system.target(node);
        if (node.kind !== 'file') continue;
        await system.read(node, 0, buffer);
        let last = 0;
        for await (const { offset, length, place } of system.extents(node)) {
          if (offset < last || length <= 0) throw new Broken(`an extent at ${offset} of ${length}`);
          if (place !== undefined && place + length > system.size)
            throw new Broken(`an extent at place ${place}`);
          last = offset + length;
        }
      }
    });
    await tries(async () => {
      let last = 0;
      for await (const { offset, length } of system.freeRanges()) {
        if (offset < last || offset + length > system.size) throw new Broken(`free space at ${offset}`);
        last = offset + length;
      }
    });
  });
  return accepted ? 'accepted' : 'refused';
}

const seed = (name: string) => new Uint8Array(gunzipSync(readFileSync(`test/fuzz/seeds/${name}.img.gz`)));

function sealExt(bytes: Uint8Array): void {
  const sum = ~crc32c(bytes.subarray(1024, 2044)) >>> 0;
  new DataView(bytes.buffer).setUint32(2044, sum, true);
}

/** The label, the metadata area's header, and the text that it names, of a disk whose area lies at 4 KiB. */
function sealLvm(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer);
  const sum = (at: number, length: number) => crc32Register(0xf597a6cf, bytes.subarray(at, at + length));
  const at = 4096 + Number(view.getBigUint64(4096 + 40, true) % 65_536n);
  const length = Number(view.getBigUint64(4096 + 48, true) % 65_536n);
  view.setUint32(4096 + 56, sum(at, length), true);
  view.setUint32(4096, sum(4100, 508), true);
  view.setUint32(512 + 16, sum(512 + 20, 492), true);
}

/** Made by mke2fs 1.47, mtools and lvm 2.03. */
export const fileSystemTargets: readonly Target[] = [
  fileSystemTarget(
    'ext4',
    2,
    { ext4: seed('ext4'), ext2: seed('ext2'), 'ext4-inline': seed('ext4-inline') },
    sealExt,
  ),
  fileSystemTarget('fat', 1, { fat12: seed('fat12') }),
  fileSystemTarget('lvm', 1, { lvm: seed('lvm') }, sealLvm),
];
