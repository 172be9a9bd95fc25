import { isDiskError } from '../../../errors.ts';
import type { Virsh } from './virsh.ts';

/** How long the list serves for further states: a memory that was saved since shows by its domain's own state. */
const servesMs = 1_000;

/**
 * UUIDs of the domains that go on from a saved memory at their next start (`virsh managedsave`): one question for all of them. The reason of
 * a domain's state does not tell: it is forgotten with the daemon, and outlives a memory that was thrown away.
 */
export async function savedDomains(virsh: Pick<Virsh, 'run'>): Promise<ReadonlySet<string>> {
  try {
    const said = await virsh.run('list', '--all', '--uuid', '--with-managed-save');
    return new Set(said.split(/\s+/).filter((one) => one !== ''));
  } catch (error) {
    // A hypervisor that saves none.
    if (isDiskError(error, 'unsupported')) return new Set();
    throw error;
  }
}

/** That list, asked for together by all who ask for states. */
export class SavedDomains {
  readonly #virsh: Pick<Virsh, 'run'>;
  #known: { readonly at: number; readonly uuids: Promise<ReadonlySet<string>> } | undefined;

  constructor(virsh: Pick<Virsh, 'run'>) {
    this.#virsh = virsh;
  }

  /** A memory was saved, gone on from or thrown away since. */
  forget(): void {
    this.#known = undefined;
  }

  /** Whether a domain that is off was saved; `state` as `virsh domstate --reason` says it. */
  async has(uuid: string, state: string): Promise<boolean> {
    const known = this.#known && performance.now() - this.#known.at <= servesMs ? this.#known : this.#ask();
    if ((await known.uuids).has(uuid)) return true;
    return state.trim() === 'shut off (saved)' && (await this.#ask().uuids).has(uuid);
  }

  #ask() {
    this.#known = { at: performance.now(), uuids: savedDomains(this.#virsh) };
    return this.#known;
  }
}
