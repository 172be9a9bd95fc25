import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { openImageFile } from '../../node.ts';
import { makeDemoMaster, readRecord, stampSeat } from './demo-master.ts';
import { encodeRecord, parseRecord, recordOffset } from './record.ts';

const mebibyte = 1024 * 1024;
let folder: TempDir;

beforeEach(async () => {
  folder = await tempDir();
});
afterEach(() => folder.remove());

describe('stampSeat', () => {
  it('names a disk and starts its count anew', async () => {
    const path = folder.file('disk.raw');
    await makeDemoMaster(path, { size: 2 * mebibyte, payloadBytes: 0, label: 'gold' });
    {
      await using image = await openImageFile(path, { format: 'raw', writable: true });
      await image.write(recordOffset(), encodeRecord({ seat: 'old', master: 'gold', boots: 7 }));
      await stampSeat(image, 'new');
      expect(await readRecord(image)).toEqual({ seat: 'new', master: 'gold', boots: 0 });
    }
    const sector = readFileSync(path).subarray(recordOffset(), recordOffset() + 512);
    expect(parseRecord(sector)).toEqual({ seat: 'new', master: 'gold', boots: 0 });
  });

  it('refuses a disk that is no demo disk, and changes nothing', async () => {
    const path = folder.file('disk.raw');
    writeFileSync(path, new Uint8Array(mebibyte).fill(7));
    {
      await using image = await openImageFile(path, { format: 'raw', writable: true });
      expect(await readRecord(image)).toBeUndefined();
      await expect(stampSeat(image, 'new')).rejects.toMatchObject({ code: 'bad-argument', field: 'magic' });
    }
    expect(readFileSync(path).every((byte) => byte === 7)).toBe(true);
    writeFileSync(path, new Uint8Array(1024));
    await using image = await openImageFile(path, { format: 'raw', writable: true });
    expect(await readRecord(image)).toBeUndefined();
  });

  it.skipIf(!have('qemu-img'))('costs an overlay one cluster, and its master nothing', async () => {
    const raw = folder.file('master.raw');
    await makeDemoMaster(raw, { size: 4 * mebibyte });
    await mustRun('qemu-img', ['convert', '-O', 'qcow2', raw, folder.file('master.qcow2')]);
    const before = readFileSync(folder.file('master.qcow2'));
    const overlay = folder.file('seat.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'master.qcow2', '-F', 'qcow2', overlay]);
    {
      await using image = await openImageFile(overlay, { writable: true });
      await stampSeat(image, 'student-07');
    }
    const map = JSON.parse(await mustRun('qemu-img', ['map', '--output=json', overlay])) as {
      depth: number;
      start: number;
      length: number;
    }[];
    expect(map.filter(({ depth }) => depth === 0)).toMatchObject([{ start: recordOffset(), length: 65536 }]);
    await mustRun('qemu-img', ['check', '-q', overlay]);
    expect(readFileSync(folder.file('master.qcow2')).equals(before)).toBe(true);
    await mustRun('qemu-img', ['convert', '-O', 'raw', overlay, folder.file('flat.raw')]);
    const flat = readFileSync(folder.file('flat.raw'));
    const expected = readFileSync(raw);
    expected.set(encodeRecord({ seat: 'student-07', master: 'demo', boots: 0 }), recordOffset());
    expect(flat.equals(expected)).toBe(true);
  });
});
