import { createHash, randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { assemble } from '../../src/lab/guest/assembler/assemble.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import {
  encodeRecord,
  parseRecord,
  recordBytes,
  recordOffset,
  type SeatRecord,
} from '../../src/lab/guest/record.ts';
import type { Seat } from '../../src/lab/seats/seat.ts';
import { mustRun, type TempDir } from './programs.ts';

/** A seat of 16 MiB on a disk that is there already. */
export function seatOn(
  folder: TempDir,
  name: string,
  disk: Partial<Seat['disk']> = {},
  more: Partial<Seat> = {},
): Seat {
  return {
    lab: 'test',
    name,
    uuid: randomUUID(),
    mac: '52:54:00:00:00:01',
    memoryMiB: 16,
    cpus: 1,
    disk: { path: folder.file(`${name}.qcow2`), format: 'qcow2', bus: 'virtio', ...disk },
    network: { kind: 'none' },
    definition: folder.file(`${name}.xml`),
    serialLog: folder.file(`${name}.log`),
    graphics: 'none',
    firmware: 'bios',
    ...more,
  };
}

/** The demo master as raw and qcow2, made by us and by qemu-img. */
export async function demoMaster(folder: TempDir): Promise<string> {
  const raw = folder.file('master.raw');
  const master = folder.file('master.qcow2');
  await makeDemoMaster(raw, { size: 4 * 1024 * 1024, payloadBytes: 65536 });
  await mustRun('qemu-img', ['convert', '-O', 'qcow2', raw, master]);
  return master;
}

/** A seat on a new overlay, made and named by QEMU's programs alone. */
export async function demoSeat(folder: TempDir, name: string, more: Partial<Seat> = {}): Promise<Seat> {
  const seat = seatOn(folder, name, more.disk, more);
  await mustRun('qemu-img', [
    'create',
    '-q',
    '-f',
    'qcow2',
    '-b',
    'master.qcow2',
    '-F',
    'qcow2',
    seat.disk.path,
  ]);
  const record = folder.file(`${name}.record`);
  writeFileSync(record, encodeRecord({ seat: name, master: 'demo', boots: 0 }));
  await mustRun('qemu-io', ['-c', `write -s ${record} ${recordOffset()} ${recordBytes}`, seat.disk.path]);
  return seat;
}

/** The record on a qcow2 disk, read by qemu-img. */
export async function recordOn(folder: TempDir, seat: Seat): Promise<SeatRecord | undefined> {
  const raw = folder.file(`${seat.name}.raw`);
  await mustRun('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', seat.disk.path, raw]);
  return parseRecord(readFileSync(raw).subarray(recordOffset(), recordOffset() + recordBytes));
}

/** A raw disk with a boot sector of its own; of 1 MiB, as SeaBIOS boots none without a whole cylinder. */
export function bootDisk(folder: TempDir, name: string, code: string): Partial<Seat['disk']> {
  const { bytes } = assemble(`org 0x7c00\n${code}\ntimes 510 - ($ - $$) db 0\ndw 0xaa55`);
  const path = folder.file(`${name}.raw`);
  const disk = new Uint8Array(1024 * 1024);
  disk.set(bytes);
  writeFileSync(path, disk);
  return { path, format: 'raw' };
}

/** A guest that says `!` and then does nothing for ever, not even when asked to shut down. */
export const endlessGuest =
  "mov dx, 0x3f8\nmov al, '!'\nout dx, al\nmov al, 10\nout dx, al\nsleep:\nhlt\njmp sleep";

export function digestOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}
