import { statSync } from 'node:fs';
import { DiskError, isDiskError } from '../errors.ts';
import { openLayerFile, trustedImages } from '../node.ts';
import { checkImage } from '../operations/check.ts';
import { isBlockDevice } from './overlay.ts';
import type { DiskEncryption } from './seat.ts';
import { keyFor } from './seat-key.ts';

export interface SoundOptions {
  readonly encryption?: DiskEncryption;
  /** Only the tables are looked at, for which no passphrase is asked. */
  readonly withoutKey?: boolean;
  /** What the image is called in errors; default: its path. */
  readonly name?: string;
}

/**
 * Throws `corrupt` for an image whose tables a check finds wrong, or whose file is shorter than they say: nothing is to be done by
 * tables that cannot be trusted. Leaked clusters are no harm. Throws `locked` where a program writes to it.
 */
export async function assertSound(path: string, options: SoundOptions = {}): Promise<void> {
  const { encryption, withoutKey, name = path } = options;
  const how = withoutKey ? { metadataOnly: true, checking: true } : keyFor(encryption);
  try {
    const { layer } = await openLayerFile(path, { policy: trustedImages, ...how });
    await using _layer = layer;
    const { corruptions, checkErrors, neededBytes = 0 } = await checkImage(layer);
    const size = isBlockDevice(path) ? Number.POSITIVE_INFINITY : statSync(path).size;
    // A check lets the last cluster be cut, since some programs write no more of it than they need.
    if (size < neededBytes) {
      const what = `was cut off: it has ${size} bytes of ${neededBytes} at least`;
      throw damaged(name, what, 'bring back a whole copy of it');
    }
    if (corruptions + checkErrors > 0) throw damaged(name, 'is damaged', `cow-img check '${name}'`);
  } catch (error) {
    if (isDiskError(error, 'unsupported') && error.field === 'check') return;
    if (isDiskError(error, 'corrupt') && error.path !== name)
      throw damaged(name, `is damaged: ${error.message}`, `cow-img check '${name}'`);
    throw error;
  }
}

function damaged(path: string, what: string, fix: string): DiskError {
  return new DiskError('corrupt', `'${path}' ${what}; nothing was changed`, { path, detail: { fix } });
}
