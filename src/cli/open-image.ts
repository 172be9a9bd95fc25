import { DiskError } from '../errors.ts';
import { findFormat } from '../formats/index.ts';
import type { Image } from '../image/image.ts';
import type { OpenedLayer } from '../image/open.ts';
import { type OpenImageFileOptions, openImageFile, openLayerFile } from '../node.ts';
import type { CliContext } from './context.ts';
import { couldNotOpen, warnOfProbedRaw } from './messages.ts';

export interface VerbOpenOptions extends OpenImageFileOptions {
  /** The exit code of a failure; default 1. */
  readonly exitCode?: number;
}

/**
 * Opens an image and its chain for a verb: warns when a raw image that will be written was only guessed to be raw.
 * Throws the CliFailure `Could not open 'path': …`.
 */
export async function openForVerb(
  context: CliContext,
  path: string,
  { exitCode, ...options }: VerbOpenOptions = {},
): Promise<Image> {
  try {
    checkName(path, options.format);
    const image = await openImageFile(path, options);
    if (options.writable && options.format === undefined && image.layer.format === 'raw') {
      warnOfProbedRaw(context, path);
    }
    return image;
  } catch (error) {
    throw couldNotOpen(path, error, exitCode);
  }
}

/** Opens the image alone, without the images that it stands on. Throws as `openForVerb` does. */
export async function openLayerForVerb(
  path: string,
  { exitCode, ...options }: VerbOpenOptions = {},
): Promise<OpenedLayer> {
  try {
    checkName(path, options.format);
    return await openLayerFile(path, options);
  } catch (error) {
    throw couldNotOpen(path, error, exitCode);
  }
}

/** What qemu-img finds wrong before it looks at the file: a format that is none, a name that is empty. */
export function checkName(path: string, format: string | undefined): void {
  if (format !== undefined && !findFormat(format)) {
    throw new DiskError('bad-argument', `No format is called '${format}'`, {
      path,
      field: 'format',
      detail: { format },
    });
  }
  if (path === '') {
    throw new DiskError('bad-argument', "The 'file' block driver requires a file name", {
      path,
      field: 'filename',
    });
  }
}
