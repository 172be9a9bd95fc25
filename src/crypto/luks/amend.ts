import { DiskError } from '../../errors.ts';
import { wipe } from '../bytes.ts';
import { defaultIterTime, slotIterations } from './create.ts';
import { type LuksHeader, slotCount } from './header.ts';
import { eraseSlot, fillSlot, unlock, type WritableHeaderArea } from './key-slots.ts';

/** What is wanted of the key slots, by QEMU's names. Secrets are named by their ids. */
export interface SlotWish {
  readonly state?: string;
  readonly 'new-secret'?: string;
  readonly 'old-secret'?: string;
  readonly keyslot?: number;
  readonly 'iter-time'?: number;
}

export interface SlotTools {
  /** The passphrase that the image was opened with: it unlocks the master key for a new slot. */
  readonly passphrase: Uint8Array;
  secret(id: string): Promise<Uint8Array>;
  /** Does also what may lose the last key, and all data with it. */
  readonly force?: boolean;
  readonly signal?: AbortSignal;
}

/**
 * Adds or erases key slots, as QEMU does and in its words. Throws `bad-argument` for a wish that cannot be, `denied` where
 * the last key would go.
 */
export async function amendSlots(
  area: WritableHeaderArea,
  header: LuksHeader,
  wish: SlotWish,
  tools: SlotTools,
): Promise<LuksHeader> {
  const { state } = wish;
  if (state === undefined) throw refusal('state', "Parameter 'state' is missing");
  if (state === 'active') return activate(area, header, wish, tools);
  if (state === 'inactive') return deactivate(area, header, wish, tools);
  throw refusal('state', `Parameter 'state' does not accept value '${state}'`);
}

async function activate(
  area: WritableHeaderArea,
  header: LuksHeader,
  wish: SlotWish,
  tools: SlotTools,
): Promise<LuksHeader> {
  if (wish['new-secret'] === undefined) {
    throw refusal('new-secret', "'new-secret' is required to activate a keyslot");
  }
  if (wish['old-secret'] !== undefined) {
    throw refusal('old-secret', "'old-secret' must not be given when activating keyslots");
  }
  const index = wish.keyslot ?? header.slots.findIndex(({ active }) => !active);
  if (wish.keyslot !== undefined) checkSlot(wish.keyslot);
  if (index < 0) throw refusal('keyslot', "Can't add a keyslot - all keyslots are in use");
  if (header.slots[index].active && !tools.force) {
    throw refusal('keyslot', `Refusing to overwrite active keyslot ${index} - please erase it first`);
  }
  const unlocked = await unlock(area, header, tools.passphrase, tools.signal);
  if (!unlocked) throw refusal('key-secret', 'Invalid password, cannot unlock any keyslot');
  let passphrase: Uint8Array | undefined;
  try {
    passphrase = await tools.secret(wish['new-secret']);
    const { signal } = tools;
    const iterations = await slotIterations(header, wish['iter-time'] ?? defaultIterTime, signal);
    const secrets = { key: unlocked.key, passphrase, iterations, signal };
    const spare = header.slots.findIndex(({ active }) => !active);
    if (!header.slots[index].active || spare < 0) return await fillSlot(area, header, index, secrets);
    // What opens the slot that is overwritten may be the only passphrase there is: the new one opens another before it goes.
    const meanwhile = await fillSlot(area, header, spare, secrets);
    return await eraseSlot(area, await fillSlot(area, meanwhile, index, secrets), spare);
  } finally {
    wipe(unlocked.key, passphrase);
  }
}

async function deactivate(
  area: WritableHeaderArea,
  header: LuksHeader,
  wish: SlotWish,
  tools: SlotTools,
): Promise<LuksHeader> {
  for (const name of ['new-secret', 'iter-time'] as const) {
    if (wish[name] === undefined) continue;
    throw refusal(name, `'${name}' must not be given when erasing keyslots`);
  }
  const old = wish['old-secret'];
  const passphrase = old === undefined ? undefined : await tools.secret(old);
  const matching = passphrase && (await unlock(area, header, passphrase, tools.signal));
  wipe(matching?.key, passphrase);
  const activeCount = header.slots.filter(({ active }) => active).length;
  const { keyslot } = wish;
  if (keyslot !== undefined) {
    checkSlot(keyslot);
    if (old !== undefined && !matching?.slots.includes(keyslot)) {
      const message = `Given keyslot ${keyslot} doesn't contain the given old password for erase operation`;
      throw refusal('old-secret', message);
    }
    if (!tools.force && !header.slots[keyslot].active) {
      throw refusal('keyslot', `Given keyslot ${keyslot} is already erased (inactive) `);
    }
    if (!tools.force && activeCount === 1) {
      const what = `Attempt to erase the only active keyslot ${keyslot}`;
      throw lastKey(`${what} which will erase all the data in the image irreversibly - refusing operation`);
    }
    return eraseSlot(area, header, keyslot);
  }
  if (old === undefined) {
    const message =
      'To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given';
    throw refusal('keyslot', message);
  }
  if (!matching) throw refusal('old-secret', 'No keyslots match given (old) password for erase operation');
  if (!tools.force && matching.slots.length === activeCount) {
    const what = 'All the active keyslots match the (old) password that was given and erasing them';
    throw lastKey(`${what} will erase all the data in the image irreversibly - refusing operation`);
  }
  let after = header;
  for (const index of matching.slots) after = await eraseSlot(area, after, index);
  return after;
}

function checkSlot(index: number): void {
  if (index >= 0 && index < slotCount) return;
  const message = `Invalid keyslot ${index} specified, must be between 0 and ${slotCount - 1}`;
  throw refusal('keyslot', message);
}

function refusal(field: string, message: string): DiskError {
  return new DiskError('bad-argument', message, { field });
}

function lastKey(message: string): DiskError {
  return new DiskError('denied', message, { field: 'keyslot' });
}
