import { DiskError } from '../../errors.ts';
import { describeSeats } from '../describe.ts';
import { domainName } from '../domain/domain-xml.ts';
import type { Runner } from '../runner/runner.ts';
import type { Seat } from './seat.ts';

/*
 * A guest whose memory was saved (`virsh managedsave`, or the host's shutdown) goes on from there at its next start, over the disk as it was then:
 * what it had not written yet, and what its file system knows of the disk, is in that memory alone. So such a disk is neither changed nor
 * copied; what throws it away throws the memory away with it, and says so.
 */

/** Names of those of the seats whose guest's memory was saved. Asks the hypervisor once, however many there are. */
export async function savedAmong(
  seats: readonly Seat[],
  runner: Pick<Runner, 'saved'>,
): Promise<readonly string[]> {
  if (seats.length === 0) return [];
  return ((await runner.saved?.(seats)) ?? []).map(({ name }) => name);
}

/** Throws `in-use` where the memory of one of the seats' guests was saved: for what changes or copies their disks. */
export async function assertNotSaved(seats: readonly Seat[], runner: Pick<Runner, 'saved'>): Promise<void> {
  const names = new Set(await savedAmong(seats, runner));
  const [first] = seats.filter(({ name }) => names.has(name));
  if (first === undefined) return;
  throw new DiskError(
    'in-use',
    `The memory of ${describeSeats([...names])} was saved (virsh managedsave), to go on over the disk as it is now: until then that must not change, and a copy of it would be torn`,
    { path: first.disk.path, detail: { seats: names.size, fix: waysOut(first) } },
  );
}

/** `assertNotSaved` for what works where the hypervisor does not answer too: its locks alone keep who runs away from a disk. */
export async function assertNotSavedIfAsked(seats: readonly Seat[], runner: Runner): Promise<void> {
  if (runner.saved && (await runner.unavailable()) === undefined) await assertNotSaved(seats, runner);
}

/** How a saved memory comes to its end. */
export function waysOut(seat: Pick<Seat, 'lab' | 'name'>): string {
  return [
    `'cowherd start ${seat.name}' lets it go on, and the guest can be shut down then. To throw its memory away, as a power cut would:`,
    `'virsh managedsave-remove ${domainName(seat)}'; with its disk: 'cowherd reset ${seat.name}'`,
  ].join(' ');
}

/** The same where the disk is gone: a new one must not come under it. */
export function memoryWithoutDisk(seat: Pick<Seat, 'lab' | 'name'>): string {
  return `bring the disk back; or throw the memory away, by 'cowherd reset ${seat.name}' or 'virsh managedsave-remove ${domainName(seat)}'`;
}

/** What is to be said where disks are thrown away, and memories with them. */
export function savedGoes(names: readonly string[], dryRun: boolean): string {
  return `The saved memory of ${describeSeats(names)} ${dryRun ? 'would go' : 'went'} with it: ${names.length === 1 ? 'its guest was' : 'their guests were'} to go on from there`;
}
