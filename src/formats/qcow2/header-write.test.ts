import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { openFileStore } from '../../storage/file.ts';
import { MemoryStore } from '../../storage/memory.ts';
import type { OptionValues } from '../driver.ts';
import { ExtensionType } from './constants.ts';
import { encodeNewImage } from './create.ts';
import { backingFileOf, backingFormatOf, findExtension, withExtension } from './extensions.ts';
import { parseHeader, type Qcow2Header, readHeader } from './header.ts';
import { replaceHeader } from './header-write.ts';
import { qcow2 } from './index.ts';
import type { WritableQcow2Layer } from './layer.ts';

const text = new TextEncoder();
const provenance = text.encode(
  JSON.stringify({ v: 1, lab: 'networking-101', seat: 'student-07', master: 'a'.repeat(64) }),
);

/** Keeps what was written between flushes, by sector. */
class Recorder extends MemoryStore {
  readonly epochs: { at: number; bytes: Uint8Array }[][] = [[]];

  override async write(at: number, from: Uint8Array): Promise<void> {
    for (let done = 0; done < from.length; ) {
      const count = Math.min(512 - ((at + done) % 512), from.length - done);
      this.epochs.at(-1)!.push({ at: at + done, bytes: from.slice(done, done + count) });
      done += count;
    }
    await super.write(at, from);
  }

  override async flush(): Promise<void> {
    if (this.epochs.at(-1)!.length > 0) this.epochs.push([]);
  }
}

/** What matters of a header: the rest may be missing for a moment. */
function essence(header: Qcow2Header): string {
  const data = findExtension(header, ExtensionType.provenance);
  const other = findExtension(header, 0x11223344);
  return [
    backingFileOf(header),
    backingFormatOf(header),
    data && new TextDecoder().decode(data),
    other?.length,
    header.size,
  ].join('|');
}

/** All states that a power cut can leave, up to `limit` an epoch. */
function* cuts(before: Uint8Array, epochs: Recorder['epochs'], limit: number) {
  const disk = before.slice();
  for (const pieces of epochs) {
    const all = 2 ** pieces.length;
    const step = Math.max(1, Math.floor(all / limit));
    for (let subset = 0; subset < all; subset += step) {
      const state = disk.slice();
      for (const [index, { at, bytes }] of pieces.entries()) {
        if (Math.floor(subset / 2 ** index) % 2 === 1) state.set(bytes, at);
      }
      yield state;
    }
    for (const { at, bytes } of pieces) disk.set(bytes, at);
  }
}

const changes: readonly (readonly [string, (header: Qcow2Header) => Qcow2Header])[] = [
  [
    'another backing file',
    (h) => ({ ...h, backingFileBytes: text.encode('other/very/long/path/to/a/master-image.qcow2') }),
  ],
  ['a shorter name', (h) => ({ ...h, backingFileBytes: text.encode('b') })],
  [
    'no backing file',
    (h) => ({
      ...h,
      backingFileBytes: undefined,
      extensions: withExtension(h.extensions, ExtensionType.backingFormat, undefined),
    }),
  ],
  [
    'another format',
    (h) => ({
      ...h,
      extensions: withExtension(h.extensions, ExtensionType.backingFormat, text.encode('vmdk'), 'first'),
    }),
  ],
  [
    'provenance',
    (h) => ({ ...h, extensions: withExtension(h.extensions, ExtensionType.provenance, provenance) }),
  ],
  ['a name of 1,000 bytes', (h) => ({ ...h, backingFileBytes: new Uint8Array(1000).fill(0x61) })],
];

describe('a header that is replaced', () => {
  const starts: readonly (readonly [string, OptionValues])[] = [
    ['version 3', {}],
    ['version 2', { compat: '0.10' }],
    ['clusters of 4 KiB', { cluster_size: 4096 }],
    ['clusters of 8 KiB', { cluster_size: 8192 }],
  ];
  for (const [name, values] of starts) {
    test.each(changes)(`${name}: %s: old or new after any power cut`, async (_change, change) => {
      const extensions = [
        { type: 0x11223344, data: new Uint8Array(5) },
        ...(values.compat ? [] : [{ type: ExtensionType.provenance, data: text.encode('{"old":true}') }]),
      ];
      const backing = { path: 'masters/debian-12.qcow2', format: 'qcow2' };
      const before = encodeNewImage(1 << 20, values, { backing, extensions }).bytes;
      const store = new Recorder({ bytes: before });
      store.epochs.splice(0, store.epochs.length, []);
      const current = parseHeader(before);
      const wanted = change(current);
      const now = await replaceHeader(store, current, wanted);
      const after = parseHeader(store.toBytes());
      expect(essence(after)).toBe(essence(wanted));
      expect({ ...now, backingFileOffset: 0 }).toEqual({ ...after, backingFileOffset: 0 });
      expect(store.toBytes().subarray(65536)).toEqual(before.subarray(65536));
      const allowed = new Set([essence(current), essence(wanted)]);
      let states = 0;
      for (const state of cuts(before, store.epochs, 300)) {
        expect(allowed).toContain(essence(parseHeader(state)));
        states++;
      }
      expect(states).toBeGreaterThan(1);
    });
  }

  test('clusters of 512 bytes: what does not fit is refused and nothing is written', async () => {
    const before = encodeNewImage(
      1 << 20,
      { cluster_size: 512 },
      { backing: { path: 'x'.repeat(300), format: 'raw' } },
    );
    const store = new MemoryStore({ bytes: before.bytes });
    const current = await readHeader(store);
    const withProvenance = (data: Uint8Array) => ({
      ...current,
      extensions: withExtension(current.extensions, ExtensionType.provenance, data),
    });
    await expect(replaceHeader(store, current, withProvenance(provenance))).rejects.toMatchObject({
      code: 'out-of-range',
    });
    expect(store.toBytes()).toEqual(before.bytes);
    await replaceHeader(store, current, withProvenance(text.encode('short')));
    const header = await readHeader(store);
    expect(new TextDecoder().decode(findExtension(header, ExtensionType.provenance))).toBe('short');
    expect(backingFileOf(header)).toBe('x'.repeat(300));
  });
});

describe.skipIf(!have('qemu-img'))('backing file and provenance, with qemu-img', () => {
  let folder: TempDir;
  beforeAll(async () => {
    folder = await tempDir();
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', 'a.qcow2', '1M'], { cwd: folder.path });
    await mustRun('qemu-img', ['create', '-q', '-f', 'raw', 'b.raw', '1M'], { cwd: folder.path });
  });
  afterAll(() => folder.remove());

  async function change(file: string, work: (layer: WritableQcow2Layer) => Promise<void>): Promise<void> {
    const source = await openFileStore(file, { writable: true });
    await using layer = await qcow2.open(source, { writable: true });
    await work(layer as WritableQcow2Layer);
  }

  async function infoOf(file: string) {
    const info = JSON.parse(await mustRun('qemu-img', ['info', '--output', 'json', file]));
    return [info['backing-filename'], info['backing-filename-format']];
  }

  test.each(['compat=1.1', 'compat=0.10', 'cluster_size=512', 'cluster_size=2M'])('%s', async (option) => {
    const file = folder.file('top.qcow2');
    const args = ['create', '-q', '-f', 'qcow2', '-o', option, '-b', 'a.qcow2', '-F', 'qcow2', file];
    await mustRun('qemu-img', args);
    const mark = text.encode('{"seat":"student-07"}');
    await change(file, (layer) => layer.setExtension(ExtensionType.provenance, mark));
    expect(await infoOf(file)).toEqual(['a.qcow2', 'qcow2']);
    await change(file, (layer) => layer.setBacking({ path: 'b.raw', format: 'raw' }));
    expect(await infoOf(file)).toEqual(['b.raw', 'raw']);
    await mustRun('qemu-img', ['rebase', '-q', '-u', '-b', 'a.qcow2', '-F', 'qcow2', file]);
    await mustRun('qemu-io', ['-c', 'write -P 5 0 4k', file]);
    await change(file, async (layer) => {
      expect(layer.backing).toEqual({ path: 'a.qcow2', format: 'qcow2' });
      expect(layer.extension(ExtensionType.provenance)).toEqual(mark);
      await layer.setBacking(undefined);
    });
    expect(await infoOf(file)).toEqual([undefined, undefined]);
    await mustRun('qemu-img', ['check', '-q', file]);
    const read = await mustRun('qemu-io', ['-c', 'read -P 5 0 4k', '-c', 'read -P 0 64k 4k', file]);
    expect(read).not.toContain('failed');
    await change(file, async (layer) => {
      expect(layer.extension(ExtensionType.provenance)).toEqual(mark);
      await layer.setExtension(ExtensionType.provenance, undefined);
      expect(layer.extension(ExtensionType.provenance)).toBeUndefined();
    });
    await mustRun('qemu-img', ['check', '-q', file]);
  });
});
