import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { seatOn } from '../../../test/support/seats.ts';
import { createImageFile, openImageFile } from '../../node.ts';
import { QemuRunner } from '../runner/qemu-runner.ts';
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
    // Its host blocks may be holes in part, which qemu-img then lists one by one.
    const own = map.filter(({ depth }) => depth === 0);
    expect(own[0].start).toBe(recordOffset());
    expect(own.reduce((sum, { length }) => sum + length, 0)).toBe(65536);
    await mustRun('qemu-img', ['check', '-q', overlay]);
    expect(readFileSync(folder.file('master.qcow2')).equals(before)).toBe(true);
    await mustRun('qemu-img', ['convert', '-O', 'raw', overlay, folder.file('flat.raw')]);
    const flat = readFileSync(folder.file('flat.raw'));
    const expected = readFileSync(raw);
    expected.set(encodeRecord({ seat: 'student-07', master: 'demo', boots: 0 }), recordOffset());
    expect(flat.equals(expected)).toBe(true);
  });

  it.skipIf(!have('qemu-system-x86_64'))('lets a guest count on an overlay that is all ours', async () => {
    const master = folder.file('master.raw');
    await makeDemoMaster(master, { size: 4 * mebibyte });
    const before = readFileSync(master);
    const seat = seatOn(folder, 'student-07');
    const backing = { path: 'master.raw', format: 'raw' };
    await createImageFile(seat.disk.path, { format: 'qcow2', size: 4 * mebibyte, backing });
    {
      await using image = await openImageFile(seat.disk.path, { writable: true });
      await stampSeat(image, seat.name);
    }
    await using runner = new QemuRunner({ accelerator: 'tcg', runtimeDir: folder.file('run') });
    for (const boots of [1, 2]) {
      await runner.start(seat);
      expect(await runner.waitOff(seat, { timeoutMs: 30_000 })).toBe('powered-off');
      await using image = await openImageFile(seat.disk.path);
      expect(await readRecord(image)).toEqual({ seat: 'student-07', master: 'demo', boots });
    }
    expect(readFileSync(master).equals(before)).toBe(true);
  });
});
