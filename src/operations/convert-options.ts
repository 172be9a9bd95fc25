import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import type { Image } from '../image/image.ts';
import type { OnProgress } from '../storage/store.ts';
import { sectorBytes } from './convert-plan.ts';

export interface ConvertOptions {
  /**
   * Bytes of zeroes in a row that are worth leaving out, whole sectors; default 4096. 0: nothing is left out, the
   * target is allocated in full.
   */
  readonly sparseBytes?: number;
  /** The target reads as zeroes where nothing was written (new and without a backing image, or by promise). */
  readonly targetIsZero?: boolean;
  /**
   * The target has a backing image that stands for the first source's: only what the source's top layer holds is
   * copied. `bytes` is its guest size, where it is known.
   */
  readonly targetBacking?: { readonly bytes?: number };
  /** Only what so many layers of the source, from its top on, hold is copied; the target has the rest already. */
  readonly layersCopied?: number;
  /** Stores every cluster packed (compressed), as some targets must have it. The target's format must be able to. */
  readonly packed?: boolean;
  /**
   * Requests in flight, 1 to 16, each of up to 2 MiB; default 2: while one is written the next is read. With encryption 4:
   * some are on their way through a cipher.
   */
  readonly requests?: number;
  /** Writes need not follow the guest's order. */
  readonly unordered?: boolean;
  /** Data is copied as it is, without looking for zeroes in it; between host files by the system alone. */
  readonly verbatim?: boolean;
  /**
   * Where the target's file system can share the blocks of all that the sources hold, that is done, verbatim. Not with
   * `packed` or `onUnreadable`, which look at every byte.
   */
  readonly shareBlocks?: boolean;
  /** Bytes that a second may write at most; 0, as absent: as many as it can. */
  readonly bytesPerSecond?: number;
  /** Goes on where a source cannot be read: told of each failure, and zeroes are written for the sector. */
  readonly onUnreadable?: (failure: { step: 'state' | 'read'; offset: number; error: unknown }) => void;
  /** Bytes of data copied, of those that there are to copy. */
  readonly onProgress?: OnProgress;
  /** Whether anybody looks at the progress by now; until then what there is to copy is not counted. Absent: yes. */
  readonly isWatched?: () => boolean;
  readonly signal?: AbortSignal;
}

const mostRequests = 16;

/**
 * Throws `bad-argument` (`field`: the option) for what would copy nothing, or something else than was meant, and be answered as done: a program
 * that counts its requests wrong must not lose a disk by it.
 */
export function checkConvertOptions(
  sources: readonly Image[],
  options: ConvertOptions,
  target: string,
): void {
  const refuse = (field: string, what: string) => {
    throw new DiskError('bad-argument', what, { path: target, field });
  };
  if (sources.length === 0) refuse('sources', 'There is no image to copy from');
  const { requests = 1, layersCopied = 1, sparseBytes = 0, bytesPerSecond = 0, targetBacking } = options;
  if (!(Number.isInteger(requests) && requests >= 1 && requests <= mostRequests)) {
    refuse('requests', `${requests} requests cannot be in flight: 1 to ${mostRequests} can`);
  }
  // Without an end: all that there are.
  const countsLayers = Number.isInteger(layersCopied) || layersCopied === Number.POSITIVE_INFINITY;
  if (!(countsLayers && layersCopied >= 1)) {
    refuse('layersCopied', `${layersCopied} layers cannot be copied: 1, the image alone, or more`);
  }
  if (!(sparseBytes >= 0 && sparseBytes % sectorBytes === 0)) {
    refuse(
      'sparseBytes',
      `${sparseBytes} bytes of zeroes cannot be looked for: whole sectors of ${sectorBytes} can`,
    );
  }
  if (!(bytesPerSecond >= 0))
    refuse('bytesPerSecond', `Nothing is written at ${bytesPerSecond} bytes a second`);
  const { bytes = 0 } = targetBacking ?? {};
  if (!isOffset(bytes)) refuse('targetBacking', `A backing image cannot have ${bytes} bytes`);
}
