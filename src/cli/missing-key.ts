import { DiskError, isDiskError } from '../errors.ts';
import type { CliContext } from './context.ts';
import type { ImageArguments } from './image-arguments.ts';

/** Options that name a secret, by QEMU's names. */
type KeyOptions = Readonly<Record<string, string>>;

const wanted = /^Parameter '((?:encrypt\.)?key-secret)' is required for cipher$/;

/**
 * Does `work`; where it lacks the passphrase of the image itself, and somebody sits at a terminal, asks for it and does it again. Of
 * images beneath it nothing is asked: `--image-opts backing.encrypt.key-secret=…` names theirs. `twice`: a new one, typed twice.
 */
export async function askingFor<T>(
  context: CliContext,
  images: ImageArguments,
  path: string,
  work: (keys: KeyOptions) => Promise<T>,
  { twice = false } = {},
): Promise<T> {
  try {
    return await work({});
  } catch (error) {
    if (!context.askSecret || !isDiskError(error) || error.detail.role === 'backing') throw error;
    const option = wanted.exec(error.message)?.[1];
    if (option === undefined) throw error;
    const passphrase = await context.askSecret(`${twice ? 'New passphrase' : 'Passphrase'} of '${path}': `);
    if (twice) await confirm(context, passphrase);
    return await work({ [option]: images.objects.keep(passphrase) });
  }
}

async function confirm({ askSecret }: CliContext, passphrase: Uint8Array): Promise<void> {
  const again = await askSecret!('The same again: ');
  const same = Buffer.compare(passphrase, again) === 0;
  again.fill(0);
  if (same) return;
  passphrase.fill(0);
  throw new DiskError('bad-argument', 'The two passphrases differ', { field: 'passphrase' });
}
