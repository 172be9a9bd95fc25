import { isUtf8, wipe } from '../crypto/bytes.ts';
import type { SlotWish } from '../crypto/luks/amend.ts';
import type { LuksOptions } from '../crypto/luks/create.ts';
import { DiskError } from '../errors.ts';
import type { OptionSpec, OptionValues } from './driver.ts';

/** Who knows secrets by their ids. */
export interface SecretKeeper {
  secret?(id: string): Promise<Uint8Array>;
  /** Finds one for an image whose options name none, and gives its id; undefined: there is nobody to be asked. */
  missingKey?(path: string): Promise<string | undefined>;
}

/**
 * The secret that opens the image at `path`, and its id: as `requireSecret`, but where the option is missing, somebody may be
 * asked.
 */
export async function openingSecret(
  keeper: SecretKeeper,
  named: unknown,
  prefix: string,
  path: string,
): Promise<{ readonly id: string; readonly passphrase: Uint8Array }> {
  const id = named ?? (await keeper.missingKey?.(path));
  const passphrase = await requireSecret(keeper, id, prefix, path);
  return { id: String(id), passphrase };
}

/**
 * The secret that the option `key-secret` names, which must be text as QEMU's are; the caller wipes it. `prefix` is what the format puts before
 * the option's name. Throws `bad-argument` where it is missing or no text.
 */
export async function requireSecret(
  keeper: SecretKeeper,
  id: unknown,
  prefix: string,
  path?: string,
): Promise<Uint8Array> {
  if (id === undefined) {
    throw new DiskError('bad-argument', `Parameter '${prefix}key-secret' is required for cipher`, {
      path,
      field: 'key-secret',
    });
  }
  return namedSecret(keeper, String(id), path);
}

/** A copy of the secret of that id, which the caller wipes. Throws `bad-argument` where there is none, or it is no text. */
export async function namedSecret(keeper: SecretKeeper, id: string, path?: string): Promise<Uint8Array> {
  const place = { path, field: 'key-secret' };
  if (!keeper.secret) throw new DiskError('bad-argument', `No secret with id '${id}'`, place);
  // A Buffer's own `slice` would share its memory, and wiping would take the keeper's secret from who asks next.
  const secret = new Uint8Array(await keeper.secret(id));
  if (isUtf8(secret) && !secret.includes(0)) return secret;
  wipe(secret);
  throw new DiskError('bad-argument', `Data from secret ${id} is not valid UTF-8`, place);
}

/** Options of a LUKS header among those of a new image. */
export function luksOptions(values: OptionValues, prefix: string): LuksOptions {
  const iterTime = values[`${prefix}iter-time`];
  const text = (name: string) => {
    const value = values[`${prefix}${name}`];
    return value === undefined ? undefined : String(value);
  };
  return {
    'cipher-alg': text('cipher-alg'),
    'cipher-mode': text('cipher-mode'),
    'ivgen-alg': text('ivgen-alg'),
    'ivgen-hash-alg': text('ivgen-hash-alg'),
    'hash-alg': text('hash-alg'),
    'iter-time': iterTime === undefined ? undefined : Number(iterTime),
  };
}

/** What `amend` is to do to key slots; undefined: nothing. */
export function slotWish(values: OptionValues, prefix: string): SlotWish | undefined {
  const wish: Record<string, string | number> = {};
  for (const name of ['state', 'new-secret', 'old-secret', 'keyslot', 'iter-time']) {
    const value = values[`${prefix}${name}`];
    if (value !== undefined) wish[name] = typeof value === 'number' ? value : String(value);
  }
  return Object.keys(wish).length === 0 ? undefined : wish;
}

/** Options of `amend` for key slots, in QEMU's words. */
export function slotOptions(prefix: string): readonly OptionSpec[] {
  return [
    { name: `${prefix}iter-time`, type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
    { name: `${prefix}keyslot`, type: 'number', help: 'Select a single keyslot to modify explicitly' },
    {
      name: `${prefix}new-secret`,
      type: 'string',
      help: 'New secret to set in the matching keyslots. Empty string to erase',
    },
    { name: `${prefix}old-secret`, type: 'string', help: 'Select all keyslots that match this password' },
    {
      name: `${prefix}state`,
      type: 'string',
      help: 'Select new state of affected keyslots (active/inactive)',
    },
  ];
}
