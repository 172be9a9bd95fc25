import { wipe } from '../../crypto/bytes.ts';
import { DiskError } from '../../errors.ts';

/*
 * What a command remembers of passphrases, and who can be asked for one. Apart from the rest, since every command begins and ends with it.
 */

/** Stretched passphrases of labs, for the time of one command. */
export const stretched = new Map<string, Promise<Uint8Array>>();

/** A passphrase "file" that stands for whoever sits at the terminal. */
export const terminal = '/dev/tty';

/** Asks for the passphrase of a lab. The caller wipes it. */
export type AskPassphrase = (lab: string) => Promise<Uint8Array>;

let ask: AskPassphrase | undefined;

/** Who is asked from now on where the lab file says that the passphrase is typed; undefined: nobody can be. */
export function askPassphraseBy(asker: AskPassphrase | undefined): void {
  ask = asker;
}

/** Throws `bad-argument` where nobody can be asked, and what asking throws. */
export async function typedPassphrase(lab: string): Promise<Uint8Array> {
  if (ask) return ask(lab);
  throw new DiskError('bad-argument', `Nobody is at a terminal to type the passphrase of ${lab}`, {
    field: 'encrypt',
    detail: { fix: 'passphrase-file: FILE in the lab file, or /dev/fd/3 and a descriptor' },
  });
}

/** Forgets and wipes what was stretched, and who is asked. */
export async function forgetPassphrases(): Promise<void> {
  const all = [...stretched.values()];
  stretched.clear();
  ask = undefined;
  for (const one of await Promise.allSettled(all)) if (one.status === 'fulfilled') wipe(one.value);
}
