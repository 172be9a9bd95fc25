import { writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { isDiskError } from '../../errors.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { ExtensionType, Incompatible } from './constants.ts';
import { encodeNewImage } from './create.ts';
import { backingFileOf, backingFormatOf, parseFeatureNames } from './extensions.ts';
import { parseHeader } from './header.ts';
import { encodeHeader } from './header-encode.ts';
import { openQcow2 } from './open.ts';

let folder: TempDir;
beforeAll(async () => {
  folder = await tempDir();
});
afterAll(() => folder.remove());

const mib = 1024 * 1024;

function image(values = {}, backing?: { path: string; format?: string }): Uint8Array {
  return encodeNewImage(mib, values, { backing }).bytes;
}

/** A copy with big-endian numbers put in, as [offset, bytes, value]. */
function patched(
  bytes: Uint8Array,
  ...patches: readonly (readonly [number, 1 | 4 | 8, bigint])[]
): Uint8Array {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  for (const [at, width, value] of patches) {
    if (width === 8) view.setBigUint64(at, value);
    else if (width === 4) view.setUint32(at, Number(value));
    else view.setUint8(at, Number(value));
  }
  return copy;
}

describe('a header', () => {
  test('comes out of encoding as it went in, unknown parts included', () => {
    const bytes = image({ lazy_refcounts: true }, { path: 'base.raw', format: 'raw' });
    const header = parseHeader(bytes);
    expect(backingFileOf(header)).toBe('base.raw');
    expect(backingFormatOf(header)).toBe('raw');
    const names = header.extensions.find(({ type }) => type === ExtensionType.featureNames)!;
    expect(parseFeatureNames(names.data)[4]).toEqual({
      kind: 'incompatible',
      bit: 4,
      name: 'extended L2 entries',
    });
    const strange = {
      ...header,
      headerLength: 128,
      unknownFields: Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
      extensions: [
        ...header.extensions,
        { type: 0x11223344, data: Uint8Array.from([7, 7, 7]) },
        { type: ExtensionType.provenance, data: new TextEncoder().encode('{"lab":"networking-101"}') },
      ],
    };
    const again = parseHeader(encodeHeader(strange));
    expect({ ...again, backingFileOffset: 0 }).toEqual({ ...strange, backingFileOffset: 0 });
  });

  test('keeps a backing file name that is no UTF-8', () => {
    const header = parseHeader(image({}, { path: 'XX.raw', format: 'raw' }));
    const name = Uint8Array.from([0xff, 0xfe, 0x2e, 0x72]);
    const again = parseHeader(encodeHeader({ ...header, backingFileBytes: name }));
    expect(again.backingFileBytes).toEqual(name);
  });

  test('says no when the first cluster is full', () => {
    const header = parseHeader(image({ cluster_size: 512 }));
    const extensions = [{ type: 0x1234, data: new Uint8Array(393) }];
    expect(() => encodeHeader({ ...header, extensions })).toThrow(/first cluster/);
  });

  test('any bytes: a header or a typed error', () => {
    const good = image({}, { path: 'base.raw', format: 'raw' }).slice(0, 1024);
    let parsed = 0;
    let refused = 0;
    const change = fc.record({
      at: fc.integer({ min: 0, max: 700 }),
      byte: fc.integer({ min: 0, max: 255 }),
    });
    fc.assert(
      fc.property(
        fc.array(change, { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 0, max: 1024 }),
        (changes, length) => {
          const bytes = good.slice(0, Math.max(length, 1024 - length));
          for (const { at, byte } of changes) if (at < bytes.length) bytes[at] = byte;
          try {
            parseHeader(bytes);
            parsed++;
          } catch (error) {
            if (!isDiskError(error) || error.field === undefined) throw error;
            refused++;
          }
        },
      ),
      { numRuns: 5000 },
    );
    expect(parsed).toBeGreaterThan(100);
    expect(refused).toBeGreaterThan(100);
  });
});

describe.skipIf(!have('qemu-img'))('headers that lie, in the words of qemu-img', () => {
  const v3 = image();
  const v2 = image({ compat: '0.10' });
  const backed = image({}, { path: 'base.raw', format: 'raw' });
  const extension = (type: bigint, length: bigint): Uint8Array =>
    patched(v3, [112, 4, type], [116, 4, length], [512, 8, 0n]);
  const cases: readonly (readonly [string, Uint8Array])[] = [
    ['magic', patched(v3, [0, 4, 0x514649fan])],
    ['version 1', patched(v3, [4, 4, 1n])],
    ['version 4', patched(v3, [4, 4, 4n])],
    ['cluster_bits 8', patched(v3, [20, 4, 8n])],
    ['cluster_bits 22', patched(v3, [20, 4, 22n])],
    ['header_length 100', patched(v3, [100, 4, 100n])],
    ['header_length past the cluster', patched(v3, [100, 4, 65544n])],
    ['backing_file_offset past the cluster', patched(v3, [8, 8, 65537n])],
    ['backing_file_offset absurd', patched(v3, [8, 8, 1n << 63n])],
    ['backing_file_size 1024', patched(backed, [16, 4, 1024n])],
    ['compression_type 2', patched(v3, [104, 1, 2n], [72, 8, 8n])],
    ['compression type without its bit', patched(v3, [104, 1, 1n])],
    ['compression bit without its type', patched(v3, [72, 8, 8n])],
    ['unknown incompatible bit 5', patched(v3, [72, 8, 32n])],
    ['unknown incompatible bits 5 and 63', patched(v3, [72, 8, (1n << 63n) | 32n])],
    ['refcount_order 7', patched(v3, [96, 4, 7n])],
    ['refcount_table_clusters 0', patched(v3, [56, 4, 0n])],
    ['refcount_table_clusters 129', patched(v3, [56, 4, 129n])],
    ['refcount_table_offset unaligned', patched(v3, [48, 8, 65537n])],
    ['refcount_table_offset 2^63', patched(v3, [48, 8, 1n << 63n])],
    ['nb_snapshots 65537', patched(v3, [60, 4, 65537n], [64, 8, 0x100000n])],
    ['snapshots_offset unaligned', patched(v3, [60, 4, 1n], [64, 8, 0x100001n])],
    ['l1_size too large', patched(v3, [36, 4, 4194305n])],
    ['l1_size too small', patched(v3, [36, 4, 0n])],
    ['l1_table_offset unaligned', patched(v3, [40, 8, 0x30001n])],
    ['l1_table_offset 2^63', patched(v3, [40, 8, 1n << 63n])],
    ['size 2^63', patched(v3, [24, 8, 1n << 63n])],
    ['size 2^62', patched(v3, [24, 8, 1n << 62n])],
    ['size 1 GiB', patched(v3, [24, 8, 1n << 30n])],
    ['crypt_method 3', patched(v3, [32, 4, 3n])],
    ['v2 l1_size too small', patched(v2, [36, 4, 0n])],
    ['extension too long', extension(0x12345678n, 65536n)],
    ['backing format too long', extension(0xe2792acan, 16n)],
    ['crypto extension without encryption', extension(0x0537be77n, 16n)],
    ['bitmaps extension of a wrong length', extension(0x23852875n, 16n)],
    ['bitmaps extension of no bitmaps', patched(extension(0x23852875n, 24n), [88, 8, 1n], [120, 8, 0n])],
    [
      'bitmaps extension of too many bitmaps',
      patched(extension(0x23852875n, 24n), [88, 8, 1n], [120, 4, 65536n], [124, 4, 0n]),
    ],
    [
      'bitmaps extension with reserved bits',
      patched(extension(0x23852875n, 24n), [88, 8, 1n], [120, 4, 1n], [124, 4, 5n]),
    ],
    [
      'bitmap directory unaligned',
      patched(
        extension(0x23852875n, 24n),
        [88, 8, 1n],
        [120, 8, 1n << 32n],
        [128, 8, 32n],
        [136, 8, 0x30001n],
      ),
    ],
    [
      'bitmap directory too large',
      patched(
        extension(0x23852875n, 24n),
        [88, 8, 1n],
        [120, 8, 1n << 32n],
        [128, 8, 1n << 40n],
        [136, 8, 0x30000n],
      ),
    ],
    ['truncated after the magic', v3.slice(0, 40)],
  ];
  test.each(cases)('%s', async (_name, bytes) => {
    const file = folder.file('lying.qcow2');
    await writeFile(file, bytes);
    const { stderr, code } = await run('qemu-img', ['info', '-f', 'qcow2', file]);
    const error = await openQcow2(new MemoryStore({ bytes, name: file }), {
      writable: false,
      metadataOnly: false,
    }).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(code).toBe(1);
    expect(isDiskError(error)).toBe(true);
    const words = (error as Error).message;
    expect(stderr).toBe(`qemu-img: Could not open '${file}': ${words}\n`);
    expect((error as { field?: string }).field).toBeTruthy();
  });

  test('unknown features are refused by the name that the image gives them', async () => {
    const bytes = patched(v3, [72, 8, 1n << 4n]);
    // Bit 4 renamed to bit 9: the table then knows bit 9's name.
    const named = patched(bytes, [72, 8, 1n << 9n], [120 + 4 * 48 + 1, 1, 9n]);
    const file = folder.file('future.qcow2');
    await writeFile(file, named);
    const { stderr } = await run('qemu-img', ['info', '-f', 'qcow2', file]);
    await expect(openQcow2(new MemoryStore({ bytes: named }), { writable: false })).rejects.toMatchObject({
      code: 'unsupported',
      field: 'incompatible_features',
    });
    const error = await openQcow2(new MemoryStore({ bytes: named }), { writable: false }).catch(
      (e: Error) => e,
    );
    expect(stderr).toBe(`qemu-img: Could not open '${file}': ${(error as Error).message}\n`);
    expect(stderr).toContain('extended L2 entries');
  });

  test('a corrupt image is not opened for writing', async () => {
    const bytes = patched(v3, [72, 8, Incompatible.corrupt]);
    const file = folder.file('corrupt.qcow2');
    await writeFile(file, bytes);
    const { stderr } = await run('qemu-io', ['-f', 'qcow2', '-c', 'read 0 512', file]);
    const error = await openQcow2(new MemoryStore({ bytes }), { writable: true }).catch((e: Error) => e);
    expect(stderr).toContain((error as Error).message);
    await using layer = await openQcow2(new MemoryStore({ bytes }), { writable: false });
    expect(layer.size).toBe(mib);
  });

  test('encryption is refused for data, and told by info', async () => {
    const secret = ['--object', 'secret,id=s,data=abc'];
    const file = folder.file('encrypted.qcow2');
    const options = 'encrypt.format=aes,encrypt.key-secret=s';
    await mustRun('qemu-img', ['create', '-q', ...secret, '-f', 'qcow2', '-o', options, file, '1M']);
    const { openFileStore } = await import('../../storage/file.ts');
    const store = await openFileStore(file);
    await expect(openQcow2(store, { writable: false })).rejects.toMatchObject({
      code: 'bad-argument',
      field: 'key-secret',
    });
    await using layer = await openQcow2(store, { writable: false, metadataOnly: true });
    expect((await layer.details()).encrypted).toBe(true);
    await expect(layer.fault(0)).rejects.toMatchObject({ field: 'key-secret' });
  });
});
