import { isSameFile } from '../../disks/overlay.ts';
import type { Seat } from '../../seats/seat.ts';
import { disksOf } from '../../seats/seat-key.ts';
import type { Beside } from '../runner.ts';
import { domainDisks } from './domain-disks.ts';
import type { Virsh } from './virsh.ts';

/** The domains of which a condition of `virsh list` holds. */
export async function listedUuids(
  virsh: Pick<Virsh, 'run'>,
  condition?: '--autostart' | '--with-snapshot',
): Promise<ReadonlySet<string>> {
  const text = await virsh.run('list', '--all', '--uuid', ...(condition ? [condition] : []));
  return new Set(text.split(/\s+/).filter((one) => one !== ''));
}

/** As `Runner.beside`. `disks`: those that a seat's domain has, none where it is not ours; `definition`: the text that it was made from. */
export async function besideSeats(
  virsh: Pick<Virsh, 'run'>,
  seats: readonly Seat[],
  has: {
    readonly disks: (seat: Seat) => Promise<readonly string[]>;
    readonly definition: (seat: Seat) => Promise<string>;
  },
): Promise<readonly Beside[]> {
  const recorded = await listedUuids(virsh, '--with-snapshot');
  const found: Beside[] = [];
  for (const seat of seats) {
    const own = disksOf(seat).map(({ path }) => path);
    const strange = (await has.disks(seat)).filter((one) => !own.some((path) => isSameFile(one, path)));
    // A template may give more.
    const meant = strange.length > 0 ? domainDisks(await has.definition(seat)).disks : [];
    const disks = strange.filter((one) => !meant.includes(one));
    const names = recorded.has(seat.uuid) ? await virsh.run('snapshot-list', seat.uuid, '--name') : '';
    const snapshots = names
      .split('\n')
      .map((name) => name.trim())
      .filter((name) => name !== '');
    if (disks.length + snapshots.length > 0) found.push({ seat: seat.name, disks, snapshots });
  }
  return found;
}
