import { DiskError, isDiskError } from '../../errors.ts';
import type { CheckResult, Layer } from '../../formats/driver.ts';
import { openLayerFile, trustedImages } from '../../node.ts';
import { checkImage } from '../../operations/check.ts';
import { hostFileOf } from '../../storage/store.ts';
import type { DiskEncryption } from '../seats/seat.ts';
import { keyFor } from '../seats/seat-key.ts';

export interface SoundOptions {
  readonly encryption?: DiskEncryption;
  /** Only the tables are looked at, for which no passphrase is asked. */
  readonly withoutKey?: boolean;
  /** What the image is called in errors; default: its path. */
  readonly name?: string;
}

/**
 * Throws `corrupt` for an image whose tables a check finds wrong, or whose file is shorter than they say: nothing is to be done by
 * tables that cannot be trusted. Leaked clusters are no harm. Throws `locked` where a program writes to it. Answers as `assertSoundLayer`.
 */
export async function assertSound(
  path: string,
  options: SoundOptions = {},
): Promise<CheckResult | undefined> {
  const { encryption, withoutKey, name = path } = options;
  const how = withoutKey ? { metadataOnly: true, checking: true } : keyFor(encryption);
  const { layer } = await orDamaged(name, checkIt(name), () =>
    openLayerFile(path, { policy: trustedImages, ...how }),
  );
  await using _layer = layer;
  return await assertSoundLayer(layer, { name });
}

/**
 * As `assertSound`, for an image that is open. `fix`: what to do about one that is damaged. Answers what the check has found;
 * undefined for a format that has none.
 */
export async function assertSoundLayer(
  layer: Layer,
  options: { readonly name: string; readonly fix?: string; readonly signal?: AbortSignal },
): Promise<CheckResult | undefined> {
  const { name, fix, signal } = options;
  try {
    return await orDamaged(name, fix ?? checkIt(name), async () => {
      const result = await checkImage(layer, { signal });
      const { corruptions, checkErrors, neededBytes = 0 } = result;
      const { size } = layer.source;
      // A check lets the last cluster be cut, since some programs write no more of it than they need.
      if (size < neededBytes && hostFileOf(layer.source)?.fileKind !== 'block') {
        const what = `was cut off: it has ${size} bytes of ${neededBytes} at least`;
        throw damaged(
          name,
          what,
          `${fix ?? 'bring back a whole copy of it'}; ${unclosed(name, neededBytes)}`,
        );
      }
      if (corruptions + checkErrors > 0) {
        const how = `${checkIt(name)} tells what is wrong, and with -r all mends what was only not closed`;
        throw damaged(name, 'is damaged', fix === undefined ? how : `${fix}; ${how}`);
      }
      return result;
    });
  } catch (error) {
    if (isDiskError(error, 'unsupported') && error.field === 'check') return undefined;
    throw error;
  }
}

/** What our server, killed, leaves out at the end of a file is zeroes; how much else was cut off nobody can tell. */
function unclosed(name: string, bytes: number): string {
  return `where no more than a server that had it open was killed: truncate -s ${bytes} '${name}'`;
}

function checkIt(name: string): string {
  return `cow-img check '${name}'`;
}

async function orDamaged<T>(name: string, fix: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (isDiskError(error, 'corrupt') && error.path !== name)
      throw damaged(name, `is damaged: ${error.message}`, fix);
    throw error;
  }
}

/** The error of an image that nothing is to be made of, nor changed in. */
export function damaged(path: string, what: string, fix: string): DiskError {
  return new DiskError('corrupt', `'${path}' ${what}; nothing was changed`, { path, detail: { fix } });
}
