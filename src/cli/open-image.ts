import type { Image } from '../image/image.ts';
import type { OpenedLayer } from '../image/open.ts';
import { type OpenImageFileOptions, openImageFile, openLayerFile } from '../node.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import { ImageArguments } from './image-arguments.ts';
import { couldNotOpen, warnOfProbedRaw } from './messages.ts';

export interface VerbOpenOptions extends OpenImageFileOptions {
  /** The exit code of a failure; default 1. */
  readonly exitCode?: number;
  /** What the command line says of all images. */
  readonly images?: ImageArguments;
  /** Whether the name is a list of options; default as `images` says. */
  readonly imageOptions?: boolean;
}

/**
 * Opens an image and its chain for a verb: warns when a raw image that will be written was only guessed to be raw.
 * Throws the CliFailure `Could not open 'path': …`.
 */
export async function openForVerb(
  context: CliContext,
  path: string,
  options: VerbOpenOptions = {},
): Promise<Image> {
  return opening(context, path, options, async (name, how) => {
    const image = await openImageFile(name, how);
    if (how.writable && image.probed && image.layer.format === 'raw') {
      warnOfProbedRaw(context, image.filename ?? path);
    }
    return image;
  });
}

/** Opens the image alone, without the images that it stands on. Throws as `openForVerb` does. */
export async function openLayerForVerb(
  context: CliContext,
  path: string,
  options: VerbOpenOptions = {},
): Promise<OpenedLayer> {
  return opening(context, path, options, openLayerFile);
}

async function opening<Opened>(
  context: CliContext,
  path: string,
  { exitCode, images = new ImageArguments(context), imageOptions, ...options }: VerbOpenOptions,
  open: (name: Parameters<typeof openImageFile>[0], options: OpenImageFileOptions) => Promise<Opened>,
): Promise<Opened> {
  let name: Parameters<typeof openImageFile>[0];
  try {
    name = images.nameOf(path, options, imageOptions);
  } catch (error) {
    if (!(error instanceof CliFailure)) throw error;
    throw new CliFailure(error.message, { exitCode, hint: error.hint, cause: error });
  }
  const how = { ...images.opening, ...options };
  try {
    return await open(name, how);
  } catch (error) {
    throw couldNotOpen(path, error, exitCode);
  }
}
