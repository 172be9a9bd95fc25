import type { SnapshotInfo } from '../formats/driver.ts';
import { humanSize } from './sizes.ts';

const header = `${'ID'.padEnd(10)}${'TAG'.padEnd(17)}${'VM SIZE'.padStart(8)}${'DATE'.padStart(20)}${'VM CLOCK'.padStart(13)}${'ICOUNT'.padStart(11)}`;

/** The table of snapshots as qemu-img prints it: a line of titles, then one line each; dates in local time. */
export function humanSnapshots(snapshots: readonly SnapshotInfo[]): string[] {
  return [header, ...snapshots.map(line)];
}

function line(snapshot: SnapshotInfo): string {
  const { vmClockNanoseconds, icount } = snapshot;
  return [
    `${snapshot.id.padEnd(9)} `,
    `${snapshot.name.padEnd(16)} `,
    humanSize(snapshot.vmStateSize).padStart(8),
    localDate(snapshot.dateSeconds).padStart(20),
    clock(vmClockNanoseconds).padStart(13),
    (icount === undefined ? '' : String(icount)).padStart(11),
  ].join('');
}

function localDate(seconds: number): string {
  const date = new Date(seconds * 1000);
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-');
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')}`;
}

function clock(nanoseconds: bigint): string {
  const seconds = Number(nanoseconds / 1_000_000_000n);
  const milliseconds = Number((nanoseconds / 1_000_000n) % 1000n);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return `${parts.map(two).join(':')}.${String(milliseconds).padStart(3, '0')}`;
}

function two(value: number): string {
  return String(value).padStart(2, '0');
}
