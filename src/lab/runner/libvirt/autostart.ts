import { closeSync, existsSync, openSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { isDiskError } from '../../../errors.ts';
import { syncDirectory } from '../../../platform/atomic-file.ts';
import { recordFolder } from '../../../platform/dependents.ts';
import { asSystemError } from '../../../platform/errno.ts';
import { makeFolder } from '../../../platform/json-file.ts';
import type { Seat } from '../../seats/seat.ts';
import { listedUuids } from './beside-seats.ts';
import { failed } from './complaints.ts';
import type { Virsh } from './virsh.ts';

/** How long the list of domains that libvirt starts by itself serves. */
const servesMs = 2_000;

/**
 * Whether a domain starts with its host is kept by libvirt with the domain, and is lost where that is undefined for a moment. It is written down
 * before, so that whoever defines the seat next gives it back, also after a kill.
 */
export class Autostart {
  readonly #virsh: Pick<Virsh, 'run'>;
  readonly #onThisMachine: boolean;
  readonly #due = new Set<string>();
  #listed: { readonly at: number; readonly uuids: Promise<ReadonlySet<string>> } | undefined;

  /** `onThisMachine`: seats' files are, and the record is beside them; else it is in memory alone. */
  constructor(virsh: Pick<Virsh, 'run'>, onThisMachine: boolean) {
    this.#virsh = virsh;
    this.#onThisMachine = onThisMachine;
  }

  /** Before a domain is undefined that comes back. Of many seats, one after the other, the first asks for all. */
  async remember(seat: Seat): Promise<void> {
    if (!this.#listed || performance.now() - this.#listed.at > servesMs)
      this.#listed = { at: performance.now(), uuids: listedUuids(this.#virsh, '--autostart') };
    if (!(await this.#listed.uuids).has(seat.uuid)) return;
    this.#due.add(seat.uuid);
    if (!this.#onThisMachine) return;
    try {
      makeMark(markOf(seat));
    } catch (error) {
      // A full disk is what a reset may be for: then a kill loses it.
      if (!isDiskError(error, 'out-of-space')) throw error;
    }
  }

  /** Whether the seat's domain has still to get back that it starts with its host. */
  isDue(seat: Seat): boolean {
    return this.#due.has(seat.uuid) || (this.#onThisMachine && existsSync(markOf(seat)));
  }

  /** Gives it back to a domain that is defined. */
  async restore(seat: Seat): Promise<void> {
    if (!this.isDue(seat)) return;
    try {
      await this.#virsh.run('autostart', seat.uuid);
    } catch (error) {
      throw failed(seat, 'be started with its host any more', error);
    }
    this.forget(seat);
  }

  /** The seat is gone, or has it back. */
  forget(seat: Seat): void {
    this.#due.delete(seat.uuid);
    if (this.#onThisMachine) rmSync(markOf(seat), { force: true });
  }
}

function markOf({ definition, uuid }: Seat): string {
  return join(dirname(definition), recordFolder, `autostart-${uuid}`);
}

/** Without content: it has a place where nothing else has. */
function makeMark(path: string): void {
  try {
    makeFolder(dirname(path));
    closeSync(openSync(path, 'a', 0o644));
    syncDirectory(dirname(path));
  } catch (cause) {
    throw asSystemError(cause, 'write', path);
  }
}
