import { tmpdir } from 'node:os';
import type { Compression } from '../codecs/compression.ts';
import { formats } from '../formats/index.ts';
import type { Image } from '../image/image.ts';
import { openImage } from '../image/open.ts';
import { guessFormat } from '../image/probe.ts';
import { placeTold } from '../platform/host-names.ts';
import { spoolUnpacked, surveyPacked, type UnpackOptions, unpackedSource } from '../storage/file-unpacked.ts';
import type { ByteSource } from '../storage/store.ts';

export interface UnpackedOptions extends UnpackOptions {
  /** The format of what is packed. Absent: probed. */
  readonly format?: string;
  /** Where a format that cannot be read from front to end is unpacked to. Default: the system's place for such. */
  readonly spoolDirectory?: string;
  /** Told when it is unpacked to a file for the time being: its format and its size. */
  readonly onSpool?: (format: string, bytes: number) => void;
}

/**
 * Opens the disk image that lies packed in `source`, which is closed with it. A raw image is unpacked as it is read, from
 * front to end; any other into a file without a name. An image that names other files is refused. Throws `corrupt` for
 * packed data that is damaged anywhere, before anything else is done.
 */
export async function openUnpacked(
  source: ByteSource,
  compression: Compression,
  options: UnpackedOptions = {},
): Promise<Image> {
  const survey = await surveyPacked(source, compression, options);
  const format =
    options.format ??
    guessFormat({ head: survey.head, size: survey.size, name: source.name }, formats) ??
    'raw';
  const { signal } = options;
  if (format === 'raw') return openImage(unpackedSource(source, survey, { signal }), { format });
  options.onSpool?.(format, survey.size);
  const spooled = await spoolUnpacked(
    source,
    compression,
    options.spoolDirectory ?? placeTold(tmpdir(), 'TMPDIR', 'TMP', 'TEMP'),
    options,
  );
  await source[Symbol.asyncDispose]();
  return openImage(spooled, { format, signal });
}
