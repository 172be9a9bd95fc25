import { DiskError } from '../errors.ts';
import { allPermissions, type ImageLock, Permission } from '../storage/image-lock.ts';
import { type ByteSource, bottomOf, hostFileOf } from '../storage/store.ts';
import type { OpenLayerOptions } from './open.ts';
import type { StoreClaims } from './store-claims.ts';

/** What an opening is for, as far as QEMU's image locks ask. */
export interface LockRequest {
  readonly format: string;
  readonly writable: boolean;
  /** Only headers and tables are read (`info`). */
  readonly metadataOnly: boolean;
  /** The size will change; a format other than raw always counts on that when it is writable. */
  readonly resize: boolean;
  /** The user counts on the size that the image has: nobody may change it meanwhile, whatever the format. */
  readonly keepSize?: boolean;
}

/**
 * The permissions that QEMU's tools use and leave to others, per image file. Raw is a filter to QEMU: it asks for
 * what its user asks for, and forbids others nothing of its own accord. Every other format keeps tables in the
 * file, so that others may neither write nor resize while it is open. It is the same for a backing image, since
 * the tools let others write to the image on top of it.
 */
export function lockFor(request: LockRequest): ImageLock {
  const { writable, metadataOnly, resize, keepSize = false } = request;
  const raw = request.format === 'raw';
  let hold = metadataOnly ? 0 : Permission.consistentRead;
  if (writable) hold |= Permission.write;
  if (writable && (resize || !raw)) hold |= Permission.resize;
  const kept = (raw ? 0 : Permission.write | Permission.resize) | (keepSize ? Permission.resize : 0);
  return { hold, shared: allPermissions & ~kept };
}

/** `-U`: reads along with whoever writes, and forbids nobody anything. */
function sharedLockFor(metadataOnly: boolean): ImageLock {
  return { hold: metadataOnly ? 0 : Permission.consistentRead, shared: allPermissions };
}

export interface LockingOptions
  extends Pick<OpenLayerOptions, 'locks' | 'writable' | 'metadataOnly' | 'resize' | 'keepSize'> {
  /** What the image has of stores that this program may open twice. */
  readonly claims: StoreClaims;
}

/** Takes QEMU's locks on a source of an image, as far as `options.locks` says. Throws `locked`. */
export async function takeLocks(source: ByteSource, format: string, options: LockingOptions): Promise<void> {
  const {
    locks = 'take',
    writable = false,
    metadataOnly = false,
    resize = false,
    keepSize,
    claims,
  } = options;
  if (locks === 'share' && writable) {
    throw new DiskError('bad-argument', 'force-share=on can only be used with read-only images', {
      path: source.name,
      field: 'force-share',
    });
  }
  if (locks === 'none') return;
  const lock =
    locks === 'share'
      ? sharedLockFor(metadataOnly)
      : lockFor({ format, writable, metadataOnly, resize, keepSize });
  if (writable) claims.add(source, lock);
  await hostFileOf(bottomOf(source))?.lock(lock);
}
