import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { makeDemoMaster } from './demo-master.ts';
import { seatProgram } from './program.ts';
import { encodeRecord, parseRecord, recordOffset } from './record.ts';

const mebibyte = 1024 * 1024;
let folder: TempDir;

beforeEach(async () => {
  folder = await tempDir();
});
afterEach(() => folder.remove());

async function contents(store: MemoryStore): Promise<Buffer> {
  const bytes = new Uint8Array(store.size);
  await store.read(0, bytes);
  return Buffer.from(bytes.buffer);
}

describe('the seat program', () => {
  it('fits a boot sector with its partition table, and one sector more', () => {
    const { bytes, symbols, origin } = seatProgram();
    expect(bytes.length).toBe(1024);
    expect([bytes[510], bytes[511]]).toEqual([0x55, 0xaa]);
    expect(symbols.get('signature')! - origin).toBe(440);
    expect(symbols.get('partition_table')! - origin).toBe(446);
  });
});

describe('the record', () => {
  it('comes back as it was written', () => {
    const record = { seat: 'student-07', master: 'demo', boots: 0xffffffff };
    expect(parseRecord(encodeRecord(record))).toEqual(record);
    const longest = { seat: 'x'.repeat(63), master: '!~', boots: 0 };
    expect(parseRecord(encodeRecord(longest))).toEqual(longest);
  });

  it.each([
    ['seat', { seat: 'x'.repeat(64), master: '', boots: 0 }],
    ['seat', { seat: 'two words', master: '', boots: 0 }],
    ['seat', { seat: 'ünï', master: '', boots: 0 }],
    ['master', { seat: '', master: 'a\nb', boots: 0 }],
    ['boots', { seat: '', master: '', boots: 2 ** 32 }],
    ['boots', { seat: '', master: '', boots: -1 }],
  ])('refuses a bad %s', (field, record) => {
    expect(() => encodeRecord(record)).toThrow(expect.objectContaining({ code: 'bad-argument', field }));
  });

  it('is not seen where there is none', () => {
    const good = encodeRecord({ seat: 'a', master: 'b', boots: 1 });
    const change = (at: number, ...bytes: number[]) => {
      const copy = good.slice();
      copy.set(bytes, at);
      return copy;
    };
    expect(parseRecord(new Uint8Array(512))).toBeUndefined();
    expect(parseRecord(good.subarray(1))).toBeUndefined();
    expect(parseRecord(change(0, 0x63))).toBeUndefined();
    expect(parseRecord(change(8, 2))).toBeUndefined();
    expect(parseRecord(change(16, ...new Array<number>(64).fill(0x41)))).toBeUndefined();
    expect(parseRecord(change(16, 0x1b, 0))).toBeUndefined();
  });
});

describe('makeDemoMaster', () => {
  it('makes the same bytes every time, and others for another label', async () => {
    const stores = [
      new MemoryStore(),
      new MemoryStore({ size: 9 * mebibyte, bytes: new Uint8Array(70000).fill(1) }),
    ];
    for (const store of stores) await makeDemoMaster(store, { size: 4 * mebibyte });
    const [one, two] = await Promise.all(stores.map(contents));
    expect(one.equals(two)).toBe(true);
    expect(one.length).toBe(4 * mebibyte);
    const other = new MemoryStore();
    await makeDemoMaster(other, { size: 4 * mebibyte, label: 'other' });
    expect((await contents(other)).equals(one)).toBe(false);
    expect(parseRecord(one.subarray(recordOffset(), recordOffset() + 512))).toEqual({
      seat: '',
      master: 'demo',
      boots: 0,
    });
  });

  it('fills in ballast that compresses to about half, and leaves the rest a hole', async () => {
    const path = folder.file('master.raw');
    const progress: number[] = [];
    await makeDemoMaster(path, {
      size: 2 ** 33,
      payloadBytes: 2 * mebibyte,
      onProgress: (done) => progress.push(done),
    });
    expect(progress).toEqual([mebibyte, 2 * mebibyte]);
    const { size, blocks } = statSync(path);
    expect(size).toBe(2 ** 33);
    expect(blocks * 512).toBeLessThan(3 * mebibyte);
    const small = folder.file('small.raw');
    await makeDemoMaster(small, { size: 3 * mebibyte });
    const ballast = readFileSync(small).subarray(mebibyte);
    const ratio = gzipSync(ballast).length / ballast.length;
    expect(ratio).toBeGreaterThan(0.4);
    expect(ratio).toBeLessThan(0.6);
    const blocksSeen = new Set<string>();
    for (let at = 0; at < ballast.length; at += 4096)
      blocksSeen.add(ballast.toString('latin1', at, at + 4096));
    expect(blocksSeen.size).toBe(ballast.length / 4096);
  });

  it('never replaces a file, and shows none before it is whole', async () => {
    const path = folder.file('master.raw');
    writeFileSync(path, 'precious');
    await expect(makeDemoMaster(path)).rejects.toMatchObject({ code: 'exists', path });
    expect(readFileSync(path, 'utf8')).toBe('precious');
    const other = folder.file('other.raw');
    await expect(
      makeDemoMaster(other, {
        onProgress: () => {
          throw new Error('stopped');
        },
      }),
    ).rejects.toThrow('stopped');
    expect(readdirSync(folder.path)).toEqual(['master.raw']);
  });

  it.each([mebibyte, 2 * mebibyte + 1, -512, Number.NaN, 2 ** 60])('refuses a size of %d', async (size) => {
    await expect(makeDemoMaster(new MemoryStore(), { size })).rejects.toMatchObject({
      code: 'bad-argument',
      field: 'size',
    });
  });

  it.skipIf(!have('fdisk'))('has a partition table that fdisk reads', async () => {
    const path = folder.file('master.raw');
    await makeDemoMaster(path, { size: 64 * mebibyte, payloadBytes: 0 });
    const output = await mustRun('fdisk', ['-l', '-o', 'Boot,Start,End,Sectors,Id,Type', path]);
    expect(output).toMatch(/Disklabel type: dos/);
    expect(output).toMatch(/\*\s+2048\s+131071\s+129024\s+da\s+Non-FS data/);
  });
});
