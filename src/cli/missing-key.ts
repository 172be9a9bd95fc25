import { DiskError, isDiskError } from '../errors.ts';
import type { CliContext } from './context.ts';
import type { ImageArguments } from './image-arguments.ts';

/** Options that name a secret, by QEMU's names. */
type KeyOptions = Readonly<Record<string, string>>;

const wanted = /^Parameter '((?:encrypt\.)?key-secret)' is required for cipher$/;

/**
 * Does `work`, which makes an image; where it lacks a passphrase for it, and somebody sits at a terminal, has one typed twice and does it
 * again. (For images that are there, `ImageArguments.opening` asks.)
 */
export async function askingForNew<T>(
  context: CliContext,
  images: ImageArguments,
  path: string,
  work: (keys: KeyOptions) => Promise<T>,
): Promise<T> {
  try {
    return await work({});
  } catch (error) {
    const option = isDiskError(error) ? wanted.exec(error.message)?.[1] : undefined;
    if (!context.askSecret || option === undefined) throw error;
    return await work({ [option]: images.objects.keep(await newPassphrase(context, path)) });
  }
}

/** The passphrase of a new image or key slot. Throws as `askTwice` does. */
export function newPassphrase(context: CliContext, path: string): Promise<Uint8Array> {
  return askTwice(context, `New passphrase of '${path}': `);
}

/** A passphrase that was typed twice alike, at a terminal that is there. Throws `bad-argument` where they differ. */
export async function askTwice({ askSecret }: CliContext, prompt: string): Promise<Uint8Array> {
  const passphrase = await askSecret!(prompt);
  const again = await askSecret!('The same again: ');
  const same = Buffer.compare(passphrase, again) === 0;
  again.fill(0);
  if (same) return passphrase;
  passphrase.fill(0);
  throw new DiskError('bad-argument', 'The two passphrases differ', { field: 'passphrase' });
}
