import type { CliContext } from '../cli/context.ts';
import { CliFailure } from '../cli/failure.ts';
import { ImageArguments } from '../cli/image-arguments.ts';
import { wipe } from '../crypto/bytes.ts';
import { openImageFile } from '../node.ts';
import { type ExportRecipe, openingFailed } from './recipe.ts';

const wanted = /Parameter '(?:encrypt\.)?key-secret' is required for cipher$/;

/**
 * Does `work`, which opens an export's image on any thread; where it lacks a passphrase, and somebody sits at a terminal, asks for those of
 * all its chain here, and does it again.
 */
export async function withTypedKeys<T>(
  recipe: ExportRecipe,
  context: CliContext,
  work: (recipe: ExportRecipe) => Promise<T>,
): Promise<T> {
  try {
    return await work(recipe);
  } catch (error) {
    if (!context.askSecret || !(error instanceof CliFailure) || !wanted.test(error.message)) throw error;
    if (!error.message.startsWith(openingFailed(recipe.filename))) throw error;
    return await work({ ...recipe, keys: await typedKeys(recipe, context) });
  }
}

/** Opens the chain to learn what it lacks; whoever serves it opens it again, and takes the locks. */
async function typedKeys(
  recipe: ExportRecipe,
  context: CliContext,
): Promise<ReadonlyMap<string, Uint8Array>> {
  const { filename, format } = recipe;
  const keys = new Map<string, Uint8Array>();
  const images = new ImageArguments(context);
  images.imageOptions = recipe.imageOptions ?? false;
  images.untrusted = recipe.untrusted ?? false;
  images.objects.know(recipe.secrets ?? new Map());
  for (const text of recipe.objects ?? []) images.take('object', text);
  context.atEnd?.(() => wipe(...keys.values()));
  const image = await openImageFile(images.nameOf(filename, { format }), {
    ...images.opening,
    format,
    locks: 'none',
    signal: context.signal,
    async missingKey(path) {
      const key = keys.get(path) ?? (await context.askSecret!(`Passphrase of '${path}': `));
      keys.set(path, key);
      return images.objects.keep(new Uint8Array(key));
    },
  });
  await image[Symbol.asyncDispose]();
  images.objects.wipe();
  return keys;
}
